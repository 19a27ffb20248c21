#include "server/supervisor/event_tail.h"

#include <fstream>
#include <limits>
#include <utility>

#include <nlohmann/json.hpp>

namespace finetuned::supervisor {
namespace {

using nlohmann::json;

double Number(const json& value) {
  return value.is_number() ? value.get<double>() : std::numeric_limits<double>::quiet_NaN();
}

template <typename Map>
void Numbers(const json& event, const char* key, Map* out) {
  const auto found = event.find(key);
  if (found == event.end() || !found->is_object()) return;
  // JSON has no NaN: null stands for it.
  for (auto it = found->begin(); it != found->end(); ++it) (*out)[it.key()] = Number(it.value());
}

std::string Below(const std::string& directory, const std::string& path) {
  return path.rfind(directory + "/", 0) == 0 ? path.substr(directory.size() + 1) : path;
}

void Fill(const json& in, const std::string& type, internal::v1::WorkerStep* out) {
  out->set_step(in.at("step").get<int64_t>());
  if (type == "step") out->set_epoch(in.value("epoch", 0.0));
  Numbers(in, "values", out->mutable_values());
}

void Fill(const json& in, v1::SampleOutput* out) {
  out->set_step(in.at("step").get<int64_t>());
  out->set_prompt(in.value("prompt", ""));
  out->set_completion(in.value("completion", ""));
  out->set_prompt_id(in.value("prompt_id", ""));
  out->set_completion_index(in.value("completion_index", 0));
  out->set_reward(Number(in.value("reward", json())));
  out->set_advantage(Number(in.value("advantage", json())));
  out->set_truncated(in.value("truncated", false));
  Numbers(in, "rewards", out->mutable_rewards());
}

}  // namespace

EventTail::EventTail(std::string state_dir, std::string job, int attempt, int64_t offset)
    : state_dir_(std::move(state_dir)), job_(std::move(job)), attempt_(attempt), offset_(offset) {}

std::vector<EventTail::Said> EventTail::Read(size_t limit) {
  std::vector<Said> all;
  std::ifstream in(state_dir_ + "/events.jsonl", std::ios::binary);
  in.seekg(offset_);
  std::string line;
  while (all.size() < limit && std::getline(in, line)) {
    if (in.eof()) break;  // the rest of it is still to come
    offset_ += static_cast<int64_t>(line.size()) + 1;
    if (auto message = Parse(line)) all.push_back({*std::move(message), offset_});
  }
  return all;
}

std::optional<internal::v1::WorkerMessage> EventTail::Parse(const std::string& line) const {
  const json in = json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!in.is_object()) return std::nullopt;
  internal::v1::WorkerMessage message;
  try {
    const std::string type = in.at("type").get<std::string>();
    if (type == "finished") {
      internal::v1::WorkerFinished* finished = message.mutable_finished();
      finished->set_job(job_);
      finished->set_attempt(attempt_);
      finished->set_outcome(in.at("outcome").get<int32_t>());
      finished->set_reason(in.value("reason", ""));
      finished->set_message(in.value("message", ""));
      finished->set_adapter_dir(Below(state_dir_, in.value("adapter_dir", "")));
      finished->set_last_step(in.value("last_step", int64_t{0}));
      Numbers(in, "metrics", finished->mutable_final_metrics());
      return message;
    }
    internal::v1::WorkerEvent* event = message.mutable_event();
    event->set_job(job_);
    event->set_attempt(attempt_);
    event->set_time_unix_nanos(static_cast<int64_t>(in.at("time").get<double>() * 1e9));
    if (type == "phase") {
      event->set_phase(in.at("phase").get<std::string>());
    } else if (type == "plan") {
      event->mutable_plan()->set_first_step(in.at("first_step").get<int64_t>());
      event->mutable_plan()->set_total_steps(in.at("total_steps").get<int64_t>());
      Numbers(in, "dataset", event->mutable_plan()->mutable_dataset_stats());
    } else if (type == "step") {
      Fill(in, type, event->mutable_step());
    } else if (type == "eval") {
      Fill(in, type, event->mutable_eval());
    } else if (type == "checkpoint") {
      event->mutable_checkpoint()->set_step(in.at("step").get<int64_t>());
      event->mutable_checkpoint()->set_directory(Below(state_dir_, in.at("directory").get<std::string>()));
      event->mutable_checkpoint()->set_bytes(in.value("bytes", int64_t{0}));
    } else if (type == "warning") {
      event->mutable_warning()->set_code(in.at("code").get<std::string>());
      event->mutable_warning()->set_text(in.value("text", ""));
    } else if (type == "log") {
      event->set_log(in.at("text").get<std::string>());
    } else if (type == "sample") {
      Fill(in, event->mutable_sample());
    } else {
      return std::nullopt;
    }
  } catch (const json::exception&) {
    return std::nullopt;
  }
  return message;
}

}  // namespace finetuned::supervisor
