#include "engine/grpo/rollout_maker.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/data/shuffle.h"

namespace finetuned::grpo {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Groups of all rollouts draw from unrelated streams.
uint64_t GroupSeed(uint64_t seed, int64_t rollout, size_t group) {
  const uint64_t of_rollout = data::EpochGenerator(seed, rollout).Next();
  return data::EpochGenerator(of_rollout, static_cast<int64_t>(group)).Next();
}

}  // namespace

RolloutMaker::RolloutMaker(RolloutMakerInputs inputs) : in_(std::move(inputs)) {}

std::vector<std::string> RolloutMaker::RewardNames() const {
  std::vector<std::string> names = in_.rewards->names();
  names.insert(names.end(), in_.remote_names.begin(), in_.remote_names.end());
  return names;
}

std::string RolloutMaker::BatchId(const Rollout& rollout, size_t group) const {
  return absl::StrCat(in_.batch_prefix, rollout.index, "-g", group);
}

std::string RolloutMaker::TextOf(const std::vector<int32_t>& tokens) const {
  return in_.tokenizer->Decode(tokens, /*skip_special=*/true);
}

bool RolloutMaker::EndsWithStop(const std::vector<int32_t>& tokens) const {
  for (const std::string& stop : in_.stop) {
    // A token is at least one byte of text but for special ones: the tail that can hold the stop.
    const size_t tail = std::min(tokens.size(), stop.size() + 8);
    const std::string text = TextOf({tokens.end() - static_cast<std::ptrdiff_t>(tail), tokens.end()});
    if (text.find(stop) != std::string::npos) return true;
  }
  return false;
}

absl::Status RolloutMaker::Generate(int64_t step, Rollout* rollout) {
  const auto start = Clock::now();
  const size_t group = static_cast<size_t>(rollout->group_size), groups = rollout->prompts.size();
  std::vector<generate::Request> requests;
  for (size_t g = 0; g < groups; ++g) {
    generate::Request request;
    request.prompt_ids = (*in_.prompts)[rollout->prompts[g]].ids;
    request.num_samples = rollout->group_size;
    request.sampling = in_.sampling;
    request.sampling.seed = GroupSeed(in_.seed, rollout->index, g);
    requests.push_back(std::move(request));
  }
  rollout->completions.assign(groups * group, {});
  std::vector<int64_t> open(groups, rollout->group_size);
  std::atomic<bool> cancel{false};
  const auto on_token = [&](const generate::TokenEvent& event) {
    if (in_.stop_wanted()) cancel = true;
    const size_t g = static_cast<size_t>(event.request);
    RolloutCompletion& completion = rollout->completions[g * group + static_cast<size_t>(event.sample)];
    completion.tokens.push_back(event.token);
    const bool stopped = !in_.stop.empty() && EndsWithStop(completion.tokens);
    if (!event.last && !stopped) return true;
    completion.truncated = event.last && !stopped && event.finish == generate::FinishReason::kLength;
    completion.text = TextOf(completion.tokens);
    if (--open[g] == 0) Ask(step, *rollout, g);
    return false;
  };
  const auto generated = in_.generator->Generate(requests, on_token, &cancel);
  if (!generated.ok()) return generated.status();
  int64_t tokens = 0;
  for (const RolloutCompletion& c : rollout->completions) tokens += static_cast<int64_t>(c.tokens.size());
  const double seconds = SecondsSince(start);
  rollout->dropped.assign(groups, 0);
  rollout->metrics["rollout/generate_time"] = seconds;
  rollout->metrics["rollout/tokens_per_second"] = static_cast<double>(tokens) / std::max(seconds, 1e-9);
  AddLengthMetrics(rollout);
  return absl::OkStatus();
}

void RolloutMaker::Ask(int64_t step, const Rollout& rollout, size_t g) {
  if (in_.remote_names.empty()) return;
  job::ScoreQuestion question;
  question.batch_id = BatchId(rollout, g);
  question.step = step;
  const data::Prompt& prompt = (*in_.prompts)[rollout.prompts[g]];
  const size_t group = static_cast<size_t>(rollout.group_size);
  for (size_t i = 0; i < group; ++i) {
    const RolloutCompletion& c = rollout.completions[g * group + i];
    question.items.push_back({absl::StrCat("line-", prompt.line), static_cast<int32_t>(i), prompt.json, c.text,
                              c.tokens, prompt.columns, c.truncated});
  }
  asked_.insert(question.batch_id);
  in_.scorer->Ask(question);
}

absl::Status RolloutMaker::Score(int64_t step, Rollout* rollout) {
  const auto start = Clock::now();
  // Of a rollout that an earlier attempt generated.
  for (size_t g = 0; g < rollout->prompts.size(); ++g) {
    if (!asked_.contains(BatchId(*rollout, g))) Ask(step, *rollout, g);
  }
  ScoreHere(rollout);
  if (absl::Status s = ScoreOutside(rollout); !s.ok()) return s;
  rollout->metrics["rollout/reward_time"] = SecondsSince(start);
  Judge(rollout);
  rollout->scored = true;
  return absl::OkStatus();
}

void RolloutMaker::ScoreHere(Rollout* rollout) {
  const size_t group = static_cast<size_t>(rollout->group_size), k = in_.rewards->size();
  std::vector<reward::Item> items;
  for (size_t i = 0; i < rollout->completions.size(); ++i) {
    const RolloutCompletion& c = rollout->completions[i];
    items.push_back({c.text, static_cast<int64_t>(c.tokens.size()), c.truncated,
                     &(*in_.prompts)[rollout->prompts[i / group]].columns});
  }
  std::map<std::string, int64_t> abstained;
  const std::vector<double> scores = in_.rewards->Evaluate(items, &abstained);
  for (size_t i = 0; i < rollout->completions.size(); ++i) {
    rollout->completions[i].scores.assign(scores.begin() + static_cast<std::ptrdiff_t>(i * k),
                                          scores.begin() + static_cast<std::ptrdiff_t>((i + 1) * k));
  }
  for (const auto& [reason, count] : abstained) {
    if (warned_.insert(reason).second) {
      in_.warn("REWARD_ABSTAINED", absl::StrCat(reason, " (", count, " completions; told once)"));
    }
  }
}

absl::Status RolloutMaker::ScoreOutside(Rollout* rollout) {
  if (in_.remote_names.empty()) return absl::OkStatus();
  const size_t group = static_cast<size_t>(rollout->group_size);
  for (size_t g = 0; g < rollout->prompts.size(); ++g) {
    const auto answer = in_.scorer->Wait(BatchId(*rollout, g), in_.stop_wanted);
    if (!answer) return absl::CancelledError("the run stops while rewards are computed");
    rollout->dropped[g] = !answer->error.empty();
    if (rollout->dropped[g] != 0) {
      in_.warn("REWARD_GROUP_DROPPED",
               absl::StrCat("the completions of line ", (*in_.prompts)[rollout->prompts[g]].line,
                            " could not be scored and are left out: ", answer->error));
    }
    for (size_t i = 0; i < group; ++i) {
      std::vector<double>& scores = rollout->completions[g * group + i].scores;
      for (const std::string& name : in_.remote_names) {
        const auto found = answer->scores.find(name);
        const bool there = found != answer->scores.end() && i < found->second.size();
        scores.push_back(there && std::isfinite(found->second[i]) ? found->second[i] : std::nan(""));
      }
      if (rollout->dropped[g] != 0) std::fill(scores.begin(), scores.end(), std::nan(""));
    }
  }
  return absl::OkStatus();
}

void RolloutMaker::Judge(Rollout* rollout) const {
  std::vector<double> scores, weights = in_.rewards->weights();
  weights.insert(weights.end(), in_.remote_weights.begin(), in_.remote_weights.end());
  int64_t abstained = 0;
  for (const RolloutCompletion& c : rollout->completions) {
    scores.insert(scores.end(), c.scores.begin(), c.scores.end());
    abstained += std::count_if(c.scores.begin(), c.scores.end(), [](double s) { return std::isnan(s); });
  }
  reward::AdvantageOptions options = in_.advantages;
  options.group_size = rollout->group_size;
  const reward::Advantages result = reward::ComputeAdvantages(scores, weights, options);
  for (size_t i = 0; i < rollout->completions.size(); ++i) {
    rollout->completions[i].reward = result.rewards[i];
    rollout->completions[i].advantage = result.advantages[i];
  }
  std::map<std::string, double>& m = rollout->metrics;
  const std::vector<std::string> names = RewardNames();
  for (size_t k = 0; k < names.size(); ++k) {
    m[absl::StrCat("rewards/", names[k], "/mean")] = result.means[k];
    m[absl::StrCat("rewards/", names[k], "/std")] = result.stds[k];
  }
  m["reward"] = result.reward_mean;
  m["reward_std"] = result.reward_std;
  m["frac_reward_zero_std"] = result.zero_std_share;
  m["rewards/zero_spread_groups"] = static_cast<double>(result.zero_spread_groups);
  m["rewards/dropped_groups"] =
      static_cast<double>(std::count(rollout->dropped.begin(), rollout->dropped.end(), 1));
  m["rewards/abstained"] = static_cast<double>(abstained);
}

void AddLengthMetrics(Rollout* rollout) {
  const auto add = [&](const std::string& kind, const std::vector<double>& lengths) {
    double sum = 0;
    for (const double length : lengths) sum += length;
    const double n = static_cast<double>(std::max<size_t>(1, lengths.size()));
    const auto bounds = std::minmax_element(lengths.begin(), lengths.end());
    rollout->metrics[absl::StrCat("completions/mean_", kind)] = sum / n;
    rollout->metrics[absl::StrCat("completions/min_", kind)] = lengths.empty() ? 0 : *bounds.first;
    rollout->metrics[absl::StrCat("completions/max_", kind)] = lengths.empty() ? 0 : *bounds.second;
  };
  std::vector<double> all, terminated;
  for (const RolloutCompletion& c : rollout->completions) {
    all.push_back(static_cast<double>(c.tokens.size()));
    if (!c.truncated) terminated.push_back(all.back());
  }
  add("length", all);
  add("terminated_length", terminated);
  rollout->metrics["completions/clipped_ratio"] =
      all.empty() ? 0 : static_cast<double>(all.size() - terminated.size()) / static_cast<double>(all.size());
}

}  // namespace finetuned::grpo
