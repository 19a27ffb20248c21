#include "tests/parity/parity_testing.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "engine/format/model_source.h"
#include "engine/format/safetensors_reader.h"
#include "engine/lora/peft_files.h"

namespace finetuned::parity {

std::string GoldenPath(const std::string& name) {
  return std::string(FINETUNED_SOURCE_DIR) + "/tests/golden/parity/" + name;
}

nlohmann::json ReadGoldenJson(const std::string& name) {
  std::ifstream in(GoldenPath(name));
  return nlohmann::json::parse(in);
}

std::map<std::string, at::Tensor> ReadTensors(const std::string& path) {
  auto file = format::SafetensorsFile::Open(path);
  if (!file.ok()) throw std::runtime_error(std::string(file.status().message()));
  std::map<std::string, at::Tensor> out;
  for (const format::TensorInfo& info : (*file)->tensors()) {
    at::Tensor t =
        at::empty(info.shape, info.dtype == format::DType::kI32 ? at::kInt : at::kFloat);
    const auto raw = *(*file)->Raw(info.name);
    if (raw.size() != t.nbytes()) throw std::runtime_error(info.name + " is not a 32-bit tensor");
    std::memcpy(t.mutable_data_ptr(), raw.data(), raw.size());
    out[info.name] = t;
  }
  return out;
}

std::shared_ptr<model::BaseModel> LoadGoldenModel(const std::string& name, bool nf4) {
  return LoadGoldenModel(name, model::LoadOptions{.base = nf4 ? plan::BaseFormat::kNf4 : plan::BaseFormat::kCompute});
}

std::shared_ptr<model::BaseModel> LoadGoldenModel(const std::string& name, const model::LoadOptions& options) {
  auto source = format::OpenModel(GoldenPath(name));
  if (!source.ok()) throw std::runtime_error(std::string(source.status().message()));
  auto base = model::LoadBaseModel(**source, name, options);
  if (!base.ok()) throw std::runtime_error(std::string(base.status().message()));
  return *base;
}

std::unique_ptr<lora::Adapter> LoadGoldenAdapter(const std::string& name,
                                                 const model::BaseModel& base) {
  auto options = lora::ReadPeftConfig(GoldenPath(name));
  if (!options.ok()) throw std::runtime_error(std::string(options.status().message()));
  auto adapter = std::make_unique<lora::Adapter>(base.config, *options, base.options.device,
                                                 base.options.dtype);
  const absl::Status status = lora::LoadPeftWeights(GoldenPath(name), adapter.get());
  if (!status.ok()) throw std::runtime_error(std::string(status.message()));
  return adapter;
}

data::PackedBatch GoldenBatch(const std::map<std::string, at::Tensor>& golden) {
  auto vector = [&](const char* name) {
    const at::Tensor& t = golden.at(name);
    const int32_t* p = t.const_data_ptr<int32_t>();
    return std::vector<int32_t>(p, p + t.numel());
  };
  data::PackedBatch batch;
  batch.input_ids = vector("input_ids");
  batch.labels = vector("labels");
  batch.cu_seqlens = vector("cu_seqlens");
  for (size_t d = 0; d + 1 < batch.cu_seqlens.size(); ++d) {
    const int32_t length = batch.cu_seqlens[d + 1] - batch.cu_seqlens[d];
    batch.max_seqlen = std::max(batch.max_seqlen, length);
    for (int32_t t = 0; t < length; ++t) batch.position_ids.push_back(t);
  }
  for (int32_t label : batch.labels) batch.num_targets += label >= 0;
  return batch;
}

data::TokenizedDataset DatasetFromJson(const nlohmann::json& rows) {
  data::TokenizedDataset dataset;
  for (const auto& row : rows) {
    data::TokenizedRow out;
    out.input_ids = row.at("input_ids").get<std::vector<int32_t>>();
    out.trained = row.at("completion_mask").get<std::vector<uint8_t>>();
    out.line = static_cast<int64_t>(dataset.rows.size()) + 1;
    dataset.stats.tokens += static_cast<int64_t>(out.input_ids.size());
    dataset.rows.push_back(std::move(out));
  }
  dataset.stats.rows = static_cast<int64_t>(dataset.rows.size());
  return dataset;
}

double RelativeError(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>() / std::max(1e-30, b.abs().max().item<double>());
}

void ExpectGradients(const lora::Adapter& adapter, const nlohmann::json& want, double tolerance) {
  double largest = 0;
  for (const auto& [name, numbers] : want.items()) largest = std::max(largest, numbers[0].get<double>());
  ASSERT_GT(largest, 0);
  const auto compare = [&](const at::Tensor& gradient, const std::string& name) {
    const at::Tensor g = gradient.flatten().to(at::kDouble), waves = at::cos(at::arange(g.numel(), at::kDouble));
    EXPECT_NEAR(g.norm().item<double>(), want.at(name)[0].get<double>(), tolerance * largest) << name;
    EXPECT_NEAR(at::dot(g, waves).item<double>(), want.at(name)[1].get<double>(), 10 * tolerance * largest) << name;
  };
  for (const lora::Site& site : adapter.sites()) {
    const std::string name = std::to_string(site.layer) + "." + lora::TargetPath(site.target);
    compare(site.da_RI, name + ".lora_A");
    compare(site.db_OR, name + ".lora_B");
  }
  EXPECT_EQ(want.size(), 2 * adapter.sites().size());
}

std::string NewTemporaryDirectory(const std::string& name) {
  const std::filesystem::path path = std::filesystem::path(testing::TempDir()) / name;
  std::filesystem::remove_all(path);
  std::filesystem::create_directories(path);
  return path.string();
}

std::string FileBytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

}  // namespace finetuned::parity
