#pragma once

#include <cstdio>
#include <map>
#include <string>

#include <nlohmann/json.hpp>

#include "engine/job/train_spec.h"

namespace finetuned::worker {

// Appends what a run reports to a JSONL file and prints a line per step to standard error.
class EventFile : public job::RunObserver {
 public:
  // Throws std::runtime_error when the file cannot be opened.
  explicit EventFile(const std::string& path);
  ~EventFile() override;

  void OnPhase(const std::string& phase) override;
  void OnPlan(int64_t first_step, int64_t total_steps,
              const std::map<std::string, double>& dataset_stats) override;
  void OnStep(int64_t step, double epoch, const std::map<std::string, double>& values) override;
  void OnEval(int64_t step, const std::map<std::string, double>& values) override;
  void OnCheckpoint(int64_t step, const std::string& directory, int64_t bytes) override;
  void OnWarning(const std::string& code, const std::string& text) override;
  void OnLog(const std::string& text) override;
  void OnSample(const job::SampleOutput& sample) override;
  void Finished(const job::RunResult& result);

 private:
  void Write(const char* type, nlohmann::ordered_json fields);

  std::FILE* file_;
  int64_t total_steps_ = 0;
};

}  // namespace finetuned::worker
