#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "engine/data/dataset.h"

namespace finetuned::data {

// What was found about one line. Keeps the first few findings with text and counts the rest, so
// that one hostile row cannot fill the memory with messages.
class Findings {
 public:
  explicit Findings(int64_t line, int max_kept = 20) : line_(line), max_kept_(max_kept) {}

  void Error(std::string field, std::string reason, std::string message) {
    Add(&errors_, &error_count_, std::move(field), std::move(reason), std::move(message));
  }
  void Warn(std::string field, std::string reason, std::string message) {
    Add(&warnings_, &warning_count_, std::move(field), std::move(reason), std::move(message));
  }

  int64_t line() const { return line_; }
  bool ok() const { return error_count_ == 0; }
  const std::vector<RowError>& errors() const { return errors_; }
  const std::vector<RowError>& warnings() const { return warnings_; }
  int64_t error_count() const { return error_count_; }
  int64_t warning_count() const { return warning_count_; }

 private:
  void Add(std::vector<RowError>* list, int64_t* count, std::string field, std::string reason,
           std::string message) {
    ++*count;
    if (static_cast<int>(list->size()) >= max_kept_) return;
    list->push_back({line_, std::move(field), std::move(reason), std::move(message)});
  }

  int64_t line_;
  int max_kept_;
  std::vector<RowError> errors_, warnings_;
  int64_t error_count_ = 0, warning_count_ = 0;
};

}  // namespace finetuned::data
