#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "finetuned/internal/v1/worker.pb.h"

namespace finetuned::supervisor {

// The messages that a worker without a link to the daemon leaves in its file of events (engine/worker/event_file.h): one
// JSON object a line, appended.
class EventTail {
 public:
  // From byte `offset` of state_dir/events.jsonl on. Messages are of this job and attempt; paths below state_dir are made
  // relative to it.
  EventTail(std::string state_dir, std::string job, int attempt, int64_t offset);

  struct Said {
    internal::v1::WorkerMessage message;  // without a sequence
    int64_t end = 0;                      // where the file goes on after it
  };
  // What was appended since the last call, whole lines only; at most `limit` messages. Lines that are no event are passed
  // over. A file that is not there (yet) is empty.
  std::vector<Said> Read(size_t limit);

  int64_t offset() const { return offset_; }

 private:
  std::optional<internal::v1::WorkerMessage> Parse(const std::string& line) const;

  std::string state_dir_, job_;
  int attempt_;
  int64_t offset_;
};

}  // namespace finetuned::supervisor
