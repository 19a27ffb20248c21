#include "clients/cli/grpo_flags.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "clients/cli/client.h"
#include "clients/cli/commands.h"

namespace finetuned::cli {
namespace {

// "length*0.1:max=8;slack=16"
v1::BuiltinReward ParseReward(const std::string& text) {
  const auto wrong = [&](const char* why) {
    return CommandError{kUsage, absl::StrCat("--reward ", text, ": ", why,
                                             "; write NAME, NAME*WEIGHT or NAME:KEY=VALUE;KEY=VALUE")};
  };
  v1::BuiltinReward reward;
  const size_t colon = text.find(':');
  const std::string head = text.substr(0, colon);
  const size_t star = head.find('*');
  reward.set_name(head.substr(0, star));
  if (reward.name().empty()) throw wrong("there is no name");
  if (star != std::string::npos) {
    double weight = 0;
    if (!absl::SimpleAtod(head.substr(star + 1), &weight)) throw wrong("the weight is no number");
    reward.set_weight(weight);
  }
  if (colon == std::string::npos) return reward;
  for (const absl::string_view pair : absl::StrSplit(text.substr(colon + 1), ';')) {
    const std::pair<std::string, std::string> argument = absl::StrSplit(pair, absl::MaxSplits('=', 1));
    if (argument.first.empty() || argument.first == pair) throw wrong("an argument is not KEY=VALUE");
    (*reward.mutable_args())[argument.first] = argument.second;
  }
  return reward;
}

}  // namespace

void AddGrpoFlags(CLI::App* c, GrpoFlags* f) {
  c->add_option("--reward", f->rewards,
                "Built-in reward, NAME[*WEIGHT][:KEY=VALUE;...]: exact, numeric, regex, json_schema, length, format")
      ->allow_extra_args(false);
  c->add_option("--remote-reward", f->remote_rewards, "Reward that an attached worker computes")
      ->allow_extra_args(false);
  c->add_option("--group-size", f->group_size, "Completions per prompt (default 8)");
  c->add_option("--max-completion-tokens", f->max_completion_tokens, "Longest completion (default 512)");
  c->add_option("--updates-per-rollout", f->updates, "Times a rollout is trained on (default 1)");
  c->add_option("--beta", f->beta, "Weight of the KL to the base (default 0)");
  c->add_option("--loss-type", f->loss_type, "dapo (default), grpo, bnpo, dr_grpo, cispo, sapo, luspo, vespo");
  c->add_option("--temperature", f->temperature, "Of sampling (default 1)");
  c->add_option("--stop", f->stop, "Text that ends a completion")->allow_extra_args(false);
  c->add_option("--system-prompt", f->system_prompt, "Put before every question");
  c->add_flag("--mask-truncated", f->mask_truncated, "Do not train on completions that hit the limit");
}

void FillGrpo(const GrpoFlags& f, v1::GrpoSpec* spec) {
  for (const std::string& text : f.rewards) *spec->add_builtin_rewards() = ParseReward(text);
  for (const std::string& name : f.remote_rewards) spec->mutable_remote_reward()->add_reward_names(name);
  for (const std::string& text : f.stop) spec->add_stop(text);
  spec->set_group_size(f.group_size);
  spec->set_max_completion_tokens(f.max_completion_tokens);
  spec->set_updates_per_rollout(f.updates);
  if (f.beta >= 0) spec->set_beta(f.beta);
  spec->set_loss_type(f.loss_type);
  if (f.temperature > 0) spec->set_temperature(f.temperature);
  spec->set_system_prompt(f.system_prompt);
  spec->set_mask_truncated(f.mask_truncated);
}

}  // namespace finetuned::cli
