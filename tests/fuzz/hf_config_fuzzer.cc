// config.json, and behind a zero byte generation_config.json.
#include "engine/format/hf_config.h"
#include "engine/format/model_layout.h"
#include "fuzzing.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace finetuned;
  const auto [config_json, generation_json] = fuzz::SplitAtZero(fuzz::AsText(data, size));
  const auto config = format::ParseHfConfig(absl::string_view(config_json.data(), config_json.size()),
                                            absl::string_view(generation_json.data(), generation_json.size()), "a/model");
  if (!config.ok()) return 0;
  fuzz::Require(format::CheckConfig(*config, "a/model").ok(), "a configuration that is read passes the checks");
  if (config->num_hidden_layers <= 64) (void)format::ExpectedTensors(*config);
  return 0;
}
