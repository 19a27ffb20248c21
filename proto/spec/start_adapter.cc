#include "proto/spec/start_adapter.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace finetuned::spec {
namespace {

// Each linear once; "all-linear" alone where these are all of a layer, whether q, k, v and gate, up are stored apart or as
// one matrix each.
template <typename List>
std::set<std::string> Linears(const List& names) {
  static const auto& kApart = *new std::set<std::string>{"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
  static const auto& kFused = *new std::set<std::string>{"qkv_proj", "o_proj", "gate_up_proj", "down_proj"};
  std::set<std::string> out(names.begin(), names.end());
  if (out.empty() || out.contains("all-linear") || out == kApart || out == kFused) return {"all-linear"};
  return out;
}

}  // namespace

std::vector<Violation> CheckStartAdapter(const StartAdapter& adapter, const v1::LoraSpec& lora) {
  std::vector<Violation> out;
  const auto different = [&](const char* field, const std::string& is, const std::string& has) {
    out.push_back({absl::StrCat("job.spec.lora.", field),
                   absl::StrCat("is ", is, ", the adapter to start from has ", has, "; leave it out")});
  };
  if (lora.rank() != 0 && lora.rank() != adapter.rank) {
    different("rank", absl::StrCat(lora.rank()), absl::StrCat(adapter.rank));
  }
  if (lora.has_alpha() && lora.alpha() != adapter.alpha) {
    different("alpha", absl::StrCat(lora.alpha()), absl::StrCat(adapter.alpha));
  }
  if (lora.use_rslora() && !adapter.use_rslora) different("use_rslora", "true", "false");
  if (lora.use_dora() && !adapter.use_dora) different("use_dora", "true", "false");
  if (!lora.bias().empty() && lora.bias() != adapter.bias) different("bias", lora.bias(), adapter.bias);
  const auto differs = [](const auto& sent, const auto& has) {
    return !sent.empty() && !std::equal(sent.begin(), sent.end(), has.begin(), has.end());
  };
  using Ranks = std::map<std::string, int64_t>;
  using Alphas = std::map<std::string, double>;
  const std::vector<int64_t> layers(lora.layers_to_transform().begin(), lora.layers_to_transform().end());
  if (differs(Ranks(lora.rank_pattern().begin(), lora.rank_pattern().end()), adapter.rank_pattern)) {
    different("rank_pattern", "set", "others");
  }
  if (differs(Alphas(lora.alpha_pattern().begin(), lora.alpha_pattern().end()), adapter.alpha_pattern)) {
    different("alpha_pattern", "set", "others");
  }
  if (differs(layers, adapter.layers)) different("layers_to_transform", "set", "others");
  if (differs(lora.modules_to_save(), adapter.modules_to_save)) different("modules_to_save", "set", "others");
  const std::set<std::string> has = Linears(adapter.target_modules);
  if (lora.target_modules_size() > 0 && Linears(lora.target_modules()) != has) {
    different("target_modules", absl::StrJoin(lora.target_modules(), ", "), absl::StrJoin(has, ", "));
  }
  return out;
}

void TakeStartAdapter(const StartAdapter& adapter, v1::LoraSpec* lora) {
  lora->set_rank(static_cast<int32_t>(adapter.rank));
  lora->set_alpha(adapter.alpha);
  lora->set_use_rslora(adapter.use_rslora);
  lora->set_use_dora(adapter.use_dora);
  lora->set_bias(adapter.bias);
  lora->clear_rank_pattern();
  for (const auto& [pattern, rank] : adapter.rank_pattern) {
    (*lora->mutable_rank_pattern())[pattern] = static_cast<int32_t>(rank);
  }
  lora->clear_alpha_pattern();
  lora->mutable_alpha_pattern()->insert(adapter.alpha_pattern.begin(), adapter.alpha_pattern.end());
  lora->mutable_modules_to_save()->Assign(adapter.modules_to_save.begin(), adapter.modules_to_save.end());
  lora->clear_layers_to_transform();
  for (const int64_t layer : adapter.layers) lora->add_layers_to_transform(static_cast<int32_t>(layer));
  lora->clear_target_modules();
  const std::set<std::string> linears = Linears(adapter.target_modules);
  if (linears.contains("all-linear")) lora->add_target_modules("all-linear");
  for (const std::string& name : TargetModules()) {
    if (linears.contains(name)) lora->add_target_modules(name);
  }
}

}  // namespace finetuned::spec
