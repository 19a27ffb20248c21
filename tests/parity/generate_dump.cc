// generate_dump MODEL IN OUT [cuda]: greedy answers of MODEL (float32) to the prompts of IN. IN is
// {"prompts": [[ids]], "eos_ids": [ids], "max_new_tokens": n}, OUT {"answers": [[ids]]}. generation_parity.py compares.
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cstdio>
#include <fstream>

#include <nlohmann/json.hpp>

#include "engine/format/model_source.h"
#include "engine/generate/generator.h"

namespace finetuned {
namespace {

absl::Status Dump(const std::string& model_path, const std::string& in_path, const std::string& out_path,
                  at::Device device) {
  c10::InferenceMode no_autograd;
  auto source = format::OpenModel(model_path);
  if (!source.ok()) return source.status();
  auto base = model::LoadBaseModel(**source, model_path, {device, at::kFloat, plan::BaseFormat::kCompute});
  if (!base.ok()) return base.status();
  const nlohmann::json in = nlohmann::json::parse(std::ifstream(in_path));
  std::vector<generate::Request> requests;
  for (const auto& prompt : in["prompts"]) {
    generate::Request r;
    r.prompt_ids = prompt.get<std::vector<int32_t>>();
    r.sampling.temperature = 0;
    r.sampling.max_new_tokens = in["max_new_tokens"];
    r.sampling.eos_ids = in["eos_ids"].get<std::vector<int32_t>>();
    requests.push_back(std::move(r));
  }
  generate::Generator generator(**base, nullptr, {.max_batch = 32, .cache_tokens = 16384, .max_sequence_tokens = 512});
  const auto answers = generator.Generate(requests);
  if (!answers.ok()) return answers.status();
  nlohmann::json out;
  for (const auto& samples : *answers) out["answers"].push_back(samples[0].tokens);
  std::ofstream(out_path) << out.dump();
  return absl::OkStatus();
}

}  // namespace
}  // namespace finetuned

int main(int argc, char** argv) {
  const bool cuda = argc == 5 && std::string(argv[4]) == "cuda";
  if (argc != 4 && !cuda) {
    std::fprintf(stderr, "usage: generate_dump MODEL IN OUT [cuda]\n");
    return 64;
  }
  const absl::Status status = finetuned::Dump(argv[1], argv[2], argv[3], cuda ? at::kCUDA : at::kCPU);
  if (!status.ok()) std::fprintf(stderr, "generate_dump: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 70;
}
