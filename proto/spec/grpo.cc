#include "proto/spec/grpo.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "absl/status/status.h"

namespace finetuned::spec {
namespace {

const Names kLosses = {"grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"};
const Names kScales = {"group", "batch", "none"};
const Names kLevels = {"token", "sequence"};
const Names kAggregations = {"sum_then_normalize", "normalize_then_sum"};
const Names kRewards = {"exact", "numeric", "regex", "json_schema", "length", "format"};

constexpr double kCispoCap = 5;  // of the paper; 1 + clip_low would cut every ratio
constexpr int kSeconds = 60;     // default of batch_timeout and worker_grace
constexpr int kMicroBatch = 8;   // largest default

void CheckSampling(const v1::GrpoSpec& g, Checker& c) {
  c.Integer("grpo.max_completion_tokens", g.max_completion_tokens(), 1, 1'000'000);
  if (g.has_temperature() && !(g.temperature() > 0 && g.temperature() <= 10)) {
    c.Add("grpo.temperature", absl::StrCat("must be above 0 and at most 10, got ", g.temperature()));
  }
  if (g.has_top_p() && !(g.top_p() > 0 && g.top_p() <= 1)) {
    c.Add("grpo.top_p", absl::StrCat("must be above 0 and at most 1, got ", g.top_p()));
  }
  c.Integer("grpo.top_k", g.top_k(), 1, 1'000'000);
  c.Number("grpo.min_p", g.min_p(), 0, 1);
  c.Number("grpo.repetition_penalty", g.repetition_penalty(), 0, 10);
  if (g.stop_size() > 16) c.Add("grpo.stop", absl::StrCat("has ", g.stop_size(), " texts; at most 16"));
  for (int i = 0; i < g.stop_size(); ++i) {
    if (g.stop(i).empty() || g.stop(i).size() > 100) {
      c.Add(absl::StrCat("grpo.stop[", i, "]"), "must have 1 to 100 bytes");
    }
  }
}

void CheckLoss(const v1::GrpoSpec& g, Checker& c) {
  c.OneOf("grpo.loss_type", g.loss_type(), kLosses);
  c.OneOf("grpo.advantage_scale", g.advantage_scale(), kScales);
  c.OneOf("grpo.importance_sampling", g.importance_sampling(), kLevels);
  c.OneOf("grpo.reward_aggregation", g.reward_aggregation(), kAggregations);
  if (g.has_beta()) c.Number("grpo.beta", g.beta(), 0, 1000);
  if (g.has_clip_low()) c.Number("grpo.clip_low", g.clip_low(), 0, 1);
  if (g.has_clip_high()) c.Number("grpo.clip_high", g.clip_high(), 0, 1000);
  if (g.has_delta() && !(g.delta() > 0 && g.delta() <= 1e6)) {
    c.Add("grpo.delta", absl::StrCat("must be above 0, got ", g.delta()));
  }
  c.Number("grpo.entropy_coef", g.entropy_coef(), -1e3, 1e3);
  if (g.has_top_entropy_quantile() && !(g.top_entropy_quantile() > 0 && g.top_entropy_quantile() <= 1)) {
    c.Add("grpo.top_entropy_quantile",
          absl::StrCat("must be above 0 and at most 1, got ", g.top_entropy_quantile()));
  }
}

void CheckRemote(const v1::RemoteReward& r, Checker& c) {
  const std::string field = "grpo.remote_reward";
  std::set<std::string> seen(kRewards.begin(), kRewards.end());
  if (r.reward_names().empty()) c.Add(field + ".reward_names", "is required: the rewards that a worker serves");
  for (int i = 0; i < r.reward_names_size(); ++i) {
    const std::string& name = r.reward_names(i);
    if (name.empty() || !seen.insert(name).second) {
      c.Add(absl::StrCat(field, ".reward_names[", i, "]"),
            name.empty() ? "is empty" : absl::StrCat("\"", name, "\" comes twice, or is a built-in reward"));
    }
  }
  if (r.weights_size() > 0 && r.weights_size() != r.reward_names_size()) {
    c.Add(field + ".weights", absl::StrCat("has ", r.weights_size(), " entries for ", r.reward_names_size(),
                                           " rewards"));
  }
  for (int i = 0; i < r.weights_size(); ++i) {
    c.Number(absl::StrCat(field, ".weights[", i, "]"), r.weights(i), -1e6, 1e6);
  }
  const auto duration = [&](const char* name, const google::protobuf::Duration& d) {
    if (d.seconds() < 0 || d.nanos() < 0 || d.seconds() > 86'400) {
      c.Add(absl::StrCat(field, ".", name), "must be 0 to 86400 seconds");
    }
  };
  duration("batch_timeout", r.batch_timeout());
  duration("worker_grace", r.worker_grace());
  c.Integer(field + ".max_attempts", r.max_attempts(), 1, 100);
}

void Default(google::protobuf::Duration* d) {
  if (d->seconds() == 0 && d->nanos() == 0) d->set_seconds(kSeconds);
}

void ResolveRewards(v1::GrpoSpec* g) {
  for (v1::BuiltinReward& reward : *g->mutable_builtin_rewards()) {
    if (!reward.has_weight()) reward.set_weight(1);
  }
  if (!g->has_remote_reward()) return;
  v1::RemoteReward* remote = g->mutable_remote_reward();
  while (remote->weights_size() < remote->reward_names_size()) remote->add_weights(1);
  Default(remote->mutable_batch_timeout());
  Default(remote->mutable_worker_grace());
  if (remote->max_attempts() == 0) remote->set_max_attempts(3);
}

}  // namespace

void CheckGrpo(const v1::GrpoSpec& g, Checker& c) {
  c.Integer("grpo.group_size", g.group_size(), 2, 1024);
  c.Integer("grpo.updates_per_rollout", g.updates_per_rollout(), 1, 64);
  c.Integer("grpo.prompts_per_rollout", g.prompts_per_rollout(), 1, 65536);
  if (g.has_samples_per_rollout()) c.Number("grpo.samples_per_rollout", g.samples_per_rollout(), 0, 1000);
  if (g.chat_template().size() > (1 << 20)) c.Add("grpo.chat_template", "is longer than 1 MiB");
  CheckLoss(g, c);
  CheckSampling(g, c);
  for (int i = 0; i < g.builtin_rewards_size(); ++i) {
    const v1::BuiltinReward& reward = g.builtin_rewards(i);
    const std::string field = absl::StrCat("grpo.builtin_rewards[", i, "]");
    c.Required(field + ".name", reward.name(), "numeric");
    c.OneOf(field + ".name", reward.name(), kRewards);
    if (reward.has_weight()) c.Number(field + ".weight", reward.weight(), -1e6, 1e6);
  }
  if (g.has_remote_reward()) {
    CheckRemote(g.remote_reward(), c);
  } else if (g.builtin_rewards().empty()) {
    c.Add("grpo.builtin_rewards", "at least one reward is required here or in grpo.remote_reward");
  }
}

void ResolveGrpo(v1::JobSpec* spec) {
  v1::GrpoSpec* g = spec->mutable_grpo();
  if (g->group_size() == 0) g->set_group_size(8);
  if (g->loss_type().empty()) g->set_loss_type("dapo");
  if (!g->has_beta()) g->set_beta(0);
  if (!g->has_clip_low()) g->set_clip_low(0.2);
  if (!g->has_clip_high()) g->set_clip_high(g->loss_type() == "cispo" ? kCispoCap : g->clip_low());
  if (g->advantage_scale().empty()) g->set_advantage_scale("group");
  if (g->importance_sampling().empty()) g->set_importance_sampling("token");
  if (g->reward_aggregation().empty()) g->set_reward_aggregation("sum_then_normalize");
  if (g->updates_per_rollout() == 0) g->set_updates_per_rollout(1);
  if (g->max_completion_tokens() == 0) g->set_max_completion_tokens(512);
  if (!g->has_temperature()) g->set_temperature(1);
  if (!g->has_top_p()) g->set_top_p(1);
  if (g->repetition_penalty() == 0) g->set_repetition_penalty(1);
  if (!g->has_top_entropy_quantile()) g->set_top_entropy_quantile(1);
  if (!g->has_use_bias_correction_kl()) g->set_use_bias_correction_kl(true);
  if (!g->has_samples_per_rollout()) g->set_samples_per_rollout(4);
  ResolveRewards(g);
  v1::ScheduleSpec* s = spec->mutable_schedule();
  if (s->micro_batch_size() == 0) s->set_micro_batch_size(std::min(g->group_size(), kMicroBatch));
  if (s->gradient_accumulation_steps() == 0) {
    s->set_gradient_accumulation_steps(g->group_size() / std::gcd(g->group_size(), s->micro_batch_size()));
  }
}

absl::Status CheckCompletionFits(const v1::JobSpec& spec) {
  if (spec.grpo().max_completion_tokens() >= spec.schedule().max_seq_length()) {
    return absl::InvalidArgumentError(
        absl::StrCat("job.spec.grpo.max_completion_tokens: ", spec.grpo().max_completion_tokens(),
                     " leave no room for a prompt within schedule.max_seq_length ", spec.schedule().max_seq_length()));
  }
  return absl::OkStatus();
}

}  // namespace finetuned::spec
