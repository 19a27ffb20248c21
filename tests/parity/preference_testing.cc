#include "tests/parity/preference_testing.h"

#include <stdexcept>

#include "engine/format/model_source.h"
#include "tests/parity/parity_testing.h"

namespace finetuned::parity {

using nlohmann::json;

json PreferenceGolden(const std::string& name) { return ReadGoldenJson("../preference/" + name + ".json"); }

data::TokenizedDataset PreferenceRows(const std::string& name, data::Method method) {
  const json golden = PreferenceGolden("tokens");
  auto source = format::OpenModel(GoldenPath("untied"));
  if (!source.ok()) throw std::runtime_error(std::string(source.status().message()));
  const auto tokenizer = (*source)->LoadTokenizer();
  if (!tokenizer.ok()) throw std::runtime_error(std::string(tokenizer.status().message()));
  data::TokenizeOptions options;
  options.method = method;
  options.max_seq_length = golden["max_length"];
  options.chat_template = golden["template"];
  auto dataset = data::TokenizeFile(GoldenPath("../preference/" + name + ".jsonl"), **tokenizer, "", options);
  if (!dataset.ok()) throw std::runtime_error(std::string(dataset.status().message()));
  return *std::move(dataset);
}

job::TrainSpec PreferenceSpec(const json& run, const lora::Options& lora) {
  job::TrainSpec spec;
  spec.method = run["method"];
  spec.base_model_name = "untied";
  spec.base_quantization = "none";
  spec.state_dir = NewTemporaryDirectory("preference");
  spec.lora = {lora.rank, lora.alpha, 0, lora.use_rslora, {}};
  for (lora::Target t : lora.targets) spec.lora.target_modules.push_back(lora::TargetName(t));
  spec.schedule.shuffle = false;
  spec.schedule.max_seq_length = PreferenceGolden("tokens")["max_length"];
  return spec;
}

void SetPreferenceOptions(const json& o, job::TrainSpec* spec) {
  if (spec->method == "kto") {
    spec->kto.loss_type = o["loss_type"];
    spec->kto.desirable_weight = o["desirable_weight"];
    spec->kto.undesirable_weight = o["undesirable_weight"];
    return;
  }
  job::DpoOptions& d = spec->dpo;
  if (o.contains("loss_type")) d.loss_types = o["loss_type"].get<std::vector<std::string>>();
  if (o.contains("loss_weights")) d.loss_weights = o["loss_weights"].get<std::vector<double>>();
  d.beta = o.value("beta", d.beta);
  d.label_smoothing = o.value("label_smoothing", 0.0);
  d.f_divergence = o.value("f_divergence_type", d.f_divergence);
  d.f_alpha_divergence_coef = o.value("f_alpha_divergence_coef", 1.0);
  d.ld_alpha = o.value("ld_alpha", 1.0);
  d.use_weighting = o.value("use_weighting", false);
  d.precompute_reference = o.value("precompute_ref_log_probs", false);
}

}  // namespace finetuned::parity
