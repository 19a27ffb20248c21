#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "server/jobs/job_manager.h"

namespace finetuned::jobs {

struct JobManager::Change {
  v1::Job job;                    // the entry's job as it will be
  v1::JobState from;              // before the change
  int64_t sequence;               // last one given out
  std::vector<std::shared_ptr<v1::Event>> events;
  std::vector<v1::Checkpoint> checkpoints;
  std::vector<v1::Adapter> adapters;
  bool crashed = false;
};

inline void SetTime(int64_t nanos, google::protobuf::Timestamp* out) {
  out->set_seconds(nanos / 1'000'000'000);
  out->set_nanos(static_cast<int32_t>(nanos % 1'000'000'000));
}

// A new etag and update time: for changes a client cares about, not for progress.
inline void Touch(int64_t now, v1::Job* job) {
  SetTime(now, job->mutable_update_time());
  const int64_t version = job->etag().empty() ? 0 : std::stoll(job->etag(), nullptr, 16);
  static const char kHex[] = "0123456789abcdef";
  std::string etag;
  for (int64_t v = version + 1; v > 0; v /= 16) etag.insert(etag.begin(), kHex[v % 16]);
  job->set_etag(etag);
}

}  // namespace finetuned::jobs
