#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "finetuned/v1/state.pb.h"

// Which job runs next, and why the others wait. Pure functions of what is passed in: no clock, no I/O.
namespace finetuned::queue {

// What the scheduler sees of a job.
struct JobView {
  std::string name;
  v1::JobState state = v1::QUEUED;
  int32_t priority = 0;
  bool was_started = false;        // given back by a crash or restart: before others of its priority
  int64_t create_order = 0;        // grows with every submission
  bool hold = false;
  int64_t not_before = 0;          // Unix seconds; 0: now
  std::vector<std::string> after;  // jobs that must have succeeded
};

struct Why {
  v1::StateReason reason = v1::WAITING_FOR_GPU;
  std::string message;   // one sentence
  int32_t position = 0;  // 1: next; 0: cannot start now whatever happens to the device
};

// The job to start, if any may.
std::optional<std::string> PickNext(const std::vector<JobView>& jobs, int64_t now);

// A job whose dependency can never succeed any more; the message says which.
struct Doomed {
  std::string name;
  std::string message;
};
std::vector<Doomed> FindDoomed(const std::vector<JobView>& jobs);

// Why a queued job waits. `running`: the job that has the device, empty when none.
Why Explain(const std::string& name, const std::vector<JobView>& jobs, const std::string& running,
            int64_t now);

}  // namespace finetuned::queue
