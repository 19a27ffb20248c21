#include "engine/train/rollout_journal.h"

#include <cmath>
#include <filesystem>
#include <vector>

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/format/sha256.h"
#include "engine/train/files.h"

namespace finetuned::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr char kFormatName[] = "finetuned.rollout";
constexpr char kPrefix[] = "rollout-";

json ToJson(double value) { return std::isfinite(value) ? json(value) : json(); }
double ToNumber(const json& value) { return value.is_null() ? std::nan("") : value.get<double>(); }

json CompletionJson(const grpo::RolloutCompletion& c) {
  json scores = json::array();
  for (const double score : c.scores) scores.push_back(ToJson(score));
  return {{"tokens", c.tokens},
          {"text", c.text},
          {"truncated", c.truncated},
          {"scores", std::move(scores)},
          {"reward", ToJson(c.reward)},
          {"advantage", c.advantage},
          {"old_log_probs", c.old_log_probs}};
}

grpo::RolloutCompletion CompletionFrom(const json& j) {
  grpo::RolloutCompletion c;
  c.tokens = j.at("tokens").get<std::vector<int32_t>>();
  c.text = j.at("text").get<std::string>();
  c.truncated = j.at("truncated").get<bool>();
  for (const json& score : j.at("scores")) c.scores.push_back(ToNumber(score));
  c.reward = ToNumber(j.at("reward"));
  c.advantage = j.at("advantage").get<double>();
  c.old_log_probs = j.at("old_log_probs").get<std::vector<float>>();
  return c;
}

grpo::Rollout RolloutFrom(const json& j) {
  grpo::Rollout r;
  r.index = j.at("index").get<int64_t>();
  r.prompts = j.at("prompts").get<std::vector<int64_t>>();
  r.group_size = j.at("group_size").get<int64_t>();
  r.dropped = j.at("dropped").get<std::vector<uint8_t>>();
  r.scored = j.at("scored").get<bool>();
  for (const auto& [name, value] : j.at("metrics").items()) r.metrics[name] = ToNumber(value);
  for (const json& completion : j.at("completions")) r.completions.push_back(CompletionFrom(completion));
  return r;
}

}  // namespace

RolloutJournal::RolloutJournal(const std::string& state_dir, std::string run)
    : folder_(state_dir + "/rollouts"), run_(format::Sha256Hex(std::string_view(run))) {}

std::string RolloutJournal::Path(int64_t index) const {
  return absl::StrFormat("%s/%s%08d.json", folder_, kPrefix, index);
}

absl::Status RolloutJournal::Save(const grpo::Rollout& r) {
  json metrics = json::object();
  for (const auto& [name, value] : r.metrics) metrics[name] = ToJson(value);
  json completions = json::array();
  for (const grpo::RolloutCompletion& c : r.completions) completions.push_back(CompletionJson(c));
  const json whole = {{"format", kFormatName},
                      {"version", kRolloutVersion},
                      {"index", r.index},
                      {"run", run_},
                      {"prompts", r.prompts},
                      {"group_size", r.group_size},
                      {"dropped", r.dropped},
                      {"scored", r.scored},
                      {"metrics", std::move(metrics)},
                      {"completions", std::move(completions)}};
  const std::string line = whole.dump(-1, ' ', false, json::error_handler_t::replace);
  return WriteFileDurably(Path(r.index), absl::StrCat(line, "\n", format::Sha256Hex(std::string_view(line)), "\n"));
}

std::optional<grpo::Rollout> RolloutJournal::Load(
    int64_t index, const std::function<void(const std::string&)>& warn) const {
  const std::string path = Path(index);
  const auto text = ReadFile(path);
  if (!text.ok()) return std::nullopt;
  const size_t end = text->find('\n');
  const std::string line = text->substr(0, end);
  if (end == std::string::npos || text->substr(end + 1) != format::Sha256Hex(std::string_view(line)) + "\n") {
    warn(absl::StrCat(path, " is damaged; the rollout is sampled again"));
    return std::nullopt;
  }
  try {
    const json j = json::parse(line);
    if (j.at("format") != kFormatName || j.at("version") != kRolloutVersion || j.at("run") != run_) {
      warn(absl::StrCat(path, " is of another run; the rollout is sampled again"));
      return std::nullopt;
    }
    return RolloutFrom(j);
  } catch (const json::exception& e) {
    warn(absl::StrCat(path, ": ", e.what(), "; the rollout is sampled again"));
    return std::nullopt;
  }
}

void RolloutJournal::Prune(int64_t first_needed) {
  std::error_code error;
  std::vector<fs::path> old;
  for (const auto& entry : fs::directory_iterator(folder_, error)) {
    const std::string name = entry.path().stem().string();
    int64_t index = 0;
    if (absl::StartsWith(name, kPrefix) && absl::SimpleAtoi(name.substr(sizeof kPrefix - 1), &index) &&
        index < first_needed) {
      old.push_back(entry.path());
    }
  }
  for (const fs::path& path : old) fs::remove(path, error);
}

}  // namespace finetuned::train
