#include "engine/worker/event_file.h"

#include <chrono>
#include <stdexcept>

#include "absl/strings/str_cat.h"

namespace finetuned::worker {

using Json = nlohmann::ordered_json;

EventFile::EventFile(const std::string& path) : file_(std::fopen(path.c_str(), "ae")) {
  if (file_ == nullptr) throw std::runtime_error(absl::StrCat("cannot write ", path));
}

EventFile::~EventFile() { std::fclose(file_); }

void EventFile::Write(const char* type, Json fields) {
  Json event = {{"time", std::chrono::duration<double>(
                             std::chrono::system_clock::now().time_since_epoch()).count()},
                {"type", type}};
  event.update(fields);
  const std::string line = event.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  std::fwrite(line.data(), 1, line.size(), file_);
  std::fflush(file_);
}

void EventFile::OnPhase(const std::string& phase) {
  Write("phase", {{"phase", phase}});
  std::fprintf(stderr, "%s\n", phase.c_str());
}

void EventFile::OnPlan(int64_t first_step, int64_t total_steps,
                       const std::map<std::string, double>& dataset_stats) {
  total_steps_ = total_steps;
  Write("plan", {{"first_step", first_step}, {"total_steps", total_steps}, {"dataset", dataset_stats}});
}

void EventFile::OnStep(int64_t step, double epoch, const std::map<std::string, double>& values) {
  Write("step", {{"step", step}, {"epoch", epoch}, {"values", values}});
  const auto value = [&](const char* key) {
    const auto it = values.find(key);
    return it == values.end() ? 0.0 : it->second;
  };
  if (values.contains("reward")) std::fprintf(stderr, "reward %.4f  ", value("reward"));
  std::fprintf(stderr, "step %lld/%lld  loss %.4f  grad_norm %.3f  lr %.2e  %.0f tokens/s\n",
               static_cast<long long>(step), static_cast<long long>(total_steps_), value("loss"),
               value("grad_norm"), value("learning_rate"), value("tokens_per_second"));
}

void EventFile::OnEval(int64_t step, const std::map<std::string, double>& values) {
  Write("eval", {{"step", step}, {"values", values}});
  for (const auto& [key, value] : values) std::fprintf(stderr, "%s %.4f  ", key.c_str(), value);
  std::fprintf(stderr, "\n");
}

void EventFile::OnCheckpoint(int64_t step, const std::string& directory, int64_t bytes) {
  Write("checkpoint", {{"step", step}, {"directory", directory}, {"bytes", bytes}});
}

void EventFile::OnWarning(const std::string& code, const std::string& text) {
  Write("warning", {{"code", code}, {"text", text}});
  std::fprintf(stderr, "warning %s: %s\n", code.c_str(), text.c_str());
}

void EventFile::OnLog(const std::string& text) {
  Write("log", {{"text", text}});
  std::fprintf(stderr, "%s\n", text.c_str());
}

void EventFile::OnSample(const job::SampleOutput& s) {
  Write("sample", {{"step", s.step},
                   {"prompt_id", s.prompt_id},
                   {"completion_index", s.completion_index},
                   {"prompt", s.prompt},
                   {"completion", s.completion},
                   {"reward", s.reward},
                   {"advantage", s.advantage},
                   {"rewards", s.rewards},
                   {"truncated", s.truncated}});
}

void EventFile::Finished(const job::RunResult& result) {
  Write("finished", {{"outcome", static_cast<int>(result.outcome)},
                     {"reason", result.reason},
                     {"message", result.message},
                     {"adapter_dir", result.adapter_dir},
                     {"last_step", result.last_step},
                     {"metrics", result.final_metrics}});
  std::fprintf(stderr, "%s%s%s\n", result.reason.c_str(), result.reason.empty() ? "" : ": ",
               result.message.c_str());
}

}  // namespace finetuned::worker
