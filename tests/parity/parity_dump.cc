// parity_dump MODEL OUT [dora|bias|tokens]: saves an adapter for MODEL with non-trivial weights as PEFT files in OUT, and
// in OUT/logits.safetensors the logits this engine computes with it. peft_loads_adapter.py compares.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <cstdio>
#include <numeric>
#include <span>
#include <string>

#include "engine/format/extended_model.h"
#include "engine/format/model_source.h"
#include "engine/format/safetensors_writer.h"
#include "engine/lora/peft_files.h"
#include "engine/model/decoder.h"

namespace finetuned {
namespace {

std::span<const uint8_t> BytesOf(const at::Tensor& t) {
  return {static_cast<const uint8_t*>(t.const_data_ptr()), t.nbytes()};
}

absl::Status Dump(const std::string& model_path, const std::string& out, const std::string& kind) {
  c10::InferenceMode no_autograd;
  auto source = format::OpenModel(model_path);
  if (!source.ok()) return source.status();
  if (kind == "tokens") source = format::WithNewTokens(*source, model_path, {"<think>", "</think>"});
  if (!source.ok()) return source.status();
  auto base = model::LoadBaseModel(**source, model_path, {at::kCPU, at::kFloat, plan::BaseFormat::kCompute});
  if (!base.ok()) return base.status();
  lora::Options options = {.rank = 6, .alpha = 9, .use_rslora = true, .targets = *lora::ParseTargets({"all-linear"})};
  if (kind == "tokens") options.modules_to_save = {"embed_tokens", "lm_head"};
  if (kind == "bias") {
    options.targets = *lora::ParseTargets({"q_proj", "down_proj"});
    options.biases = plan::Biases::kAll;
  }
  if (kind == "dora") {
    options.use_dora = true;
    options.rank_pattern = {{"k_proj", 2}, {"layers\\.1\\.mlp\\..*", 5}};
    options.alpha_pattern = {{"up_proj", 30}};
    options.layers = {1};
  }
  lora::Adapter adapter((*base)->config, options, at::kCPU, at::kFloat);
  adapter.Initialize(5);
  model::Decoder decoder(**base, adapter, {});
  decoder.TakeFromBase();
  adapter.parameters().add_(0.02);
  adapter.RefreshCompute();
  if (auto s = lora::SavePeft(adapter, {model_path, "parity", (*source)->extended_tokenizer()}, out); !s.ok()) return s;

  data::PackedBatch batch;
  const int32_t length = 40;
  const int32_t ids_below = (*base)->config.vocab_size < 256 ? 90 : 256;  // special ones of the small models are above
  for (int32_t t = 0; t < length; ++t) batch.input_ids.push_back((t * 37 + 11) % ids_below);
  if (kind == "tokens") batch.input_ids[3] = (*base)->config.vocab_size - 1;  // a new one
  batch.labels.assign(length, -100);
  batch.position_ids.resize(length);
  std::iota(batch.position_ids.begin(), batch.position_ids.end(), 0);
  batch.cu_seqlens = {0, length};
  batch.max_seqlen = length;
  const at::Tensor logits = decoder.Logits(model::Upload(batch, at::kCPU)).contiguous();
  const at::Tensor ids = at::tensor(batch.input_ids, at::kInt);
  auto writer = format::SafetensorsWriter::Create(
      out + "/logits.safetensors", {{"logits", format::DType::kF32, logits.sizes().vec()},
                                    {"input_ids", format::DType::kI32, {length}}});
  if (!writer.ok()) return writer.status();
  absl::Status status = (*writer)->Append("logits", BytesOf(logits));
  if (status.ok()) status = (*writer)->Append("input_ids", BytesOf(ids));
  return status.ok() ? (*writer)->Finish() : status;
}

}  // namespace
}  // namespace finetuned

int main(int argc, char** argv) {
  const std::string kind = argc == 4 ? argv[3] : "";
  if (argc != 3 && kind != "dora" && kind != "bias" && kind != "tokens") {
    std::fprintf(stderr, "usage: parity_dump MODEL OUT [dora|bias|tokens]\n");
    return 2;
  }
  const absl::Status status = finetuned::Dump(argv[1], argv[2], kind);
  if (!status.ok()) std::fprintf(stderr, "parity_dump: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
