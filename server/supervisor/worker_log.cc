#include "server/supervisor/worker_log.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace finetuned::supervisor {
namespace {

constexpr size_t kTailLines = 20;
constexpr size_t kLineBytes = 500;

}  // namespace

void WorkerLog::Append(std::string_view text) {
  Remember(text);
  file_.Append(text);
}

void WorkerLog::Remember(std::string_view text) {
  for (const char c : text) {
    if (c != '\n') {
      if (partial_.size() < kLineBytes) partial_ += c;
      continue;
    }
    if (!partial_.empty()) lines_.push_back(std::move(partial_));
    partial_.clear();
    if (lines_.size() > kTailLines) lines_.pop_front();
  }
}

std::string WorkerLog::Tail() const {
  std::string tail = absl::StrJoin(lines_, "\n");
  if (!partial_.empty()) absl::StrAppend(&tail, tail.empty() ? "" : "\n", partial_);
  return tail;
}

void WorkerLog::ForgetTail() {
  lines_.clear();
  partial_.clear();
}

}  // namespace finetuned::supervisor
