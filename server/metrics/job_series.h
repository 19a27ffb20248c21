#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "finetuned/internal/v1/worker.pb.h"
#include "finetuned/v1/jobs.pb.h"
#include "server/metrics/families.h"

namespace finetuned::metrics {

// The series of one job that has, or just had, the device: they come with its words and go together with
// this object. A value that a method does not report has no series. Not thread-safe.
class JobSeries {
 public:
  JobSeries(Families* families, const std::string& job);
  ~JobSeries();
  JobSeries(const JobSeries&) = delete;
  JobSeries& operator=(const JobSeries&) = delete;

  // The job got the device, again maybe: its metadata and the plan made at admission.
  void OnDevice(const v1::Job& job);
  void Plan(const internal::v1::WorkerPlan& plan);
  void Step(const internal::v1::WorkerStep& step);
  void Eval(const internal::v1::WorkerStep& eval);
  void Checkpoint(absl::Time time);
  void SkippedStep();

  double peak_bytes() const { return peak_; }  // since OnDevice
  absl::Time remove_at = absl::InfiniteFuture();

 private:
  using Values = google::protobuf::Map<std::string, double>;

  void Set(Families::Gauges family, double value, const prometheus::Labels& labels = {});
  void Add(Families::Counters family, double value, const prometheus::Labels& labels = {});
  void Tokens(const Values& values);
  void Phases(const Values& values);
  void Preferences(const Values& values);
  void Rollouts(const Values& values);

  Families& f_;
  const std::string id_;
  std::map<std::pair<const void*, prometheus::Labels>, prometheus::Gauge*> gauges_;
  std::map<std::pair<const void*, prometheus::Labels>, prometheus::Counter*> counters_;
  std::vector<std::function<void()>> removers_;
  // What the worker's running totals were when last seen.
  double tokens_ = 0, trained_ = 0;
  double peak_ = 0;
  double context_ = 0;  // of the plan: what the process takes beside its allocator
  // Of the resolved specification: the worker reports shares and means, not counts.
  double rows_per_step_ = 1, groups_ = 1, group_size_ = 1;
  double last_rollout_ = -1;  // its time of generation, which tells rollouts apart
};

}  // namespace finetuned::metrics
