#pragma once

#include <map>
#include <string>

#include "finetuned/v1/jobs.grpc.pb.h"
#include "server/api/front.h"
#include "server/api/job_planner.h"

namespace finetuned::api {

// finetuned.v1.Jobs: checks what was sent, plans, and hands over to JobManager.
class JobsService final : public v1::Jobs::CallbackService {
 public:
  explicit JobsService(const Front& front)
      : front_(front), planner_(front.shared->daemon, &front.shared->models) {}

  using Context = grpc::CallbackServerContext;
  using Unary = grpc::ServerUnaryReactor;
  Unary* CreateJob(Context*, const v1::CreateJobRequest*, v1::Job*) override;
  Unary* GetJob(Context*, const v1::GetJobRequest*, v1::Job*) override;
  Unary* ListJobs(Context*, const v1::ListJobsRequest*, v1::ListJobsResponse*) override;
  Unary* UpdateJob(Context*, const v1::UpdateJobRequest*, v1::Job*) override;
  Unary* DeleteJob(Context*, const v1::DeleteJobRequest*, google::protobuf::Empty*) override;
  Unary* CancelJob(Context*, const v1::CancelJobRequest*, v1::Job*) override;
  Unary* PauseJob(Context*, const v1::PauseJobRequest*, v1::Job*) override;
  Unary* ResumeJob(Context*, const v1::ResumeJobRequest*, v1::Job*) override;
  Unary* RetryJob(Context*, const v1::RetryJobRequest*, v1::Job*) override;
  Unary* StopJob(Context*, const v1::StopJobRequest*, v1::Job*) override;
  Unary* CheckpointJob(Context*, const v1::CheckpointJobRequest*, v1::Job*) override;
  Unary* PlanJob(Context*, const v1::PlanJobRequest*, v1::JobPlan*) override;
  grpc::ServerWriteReactor<v1::WatchJobResponse>* WatchJob(Context*, const v1::WatchJobRequest*) override;
  Unary* ListEvents(Context*, const v1::ListEventsRequest*, v1::ListEventsResponse*) override;
  Unary* QueryMetrics(Context*, const v1::QueryMetricsRequest*, v1::QueryMetricsResponse*) override;
  Unary* ListCheckpoints(Context*, const v1::ListCheckpointsRequest*, v1::ListCheckpointsResponse*) override;

 private:
  jobs::JobManager& manager() const { return *front_.shared->daemon.jobs; }
  store::Store& store() const { return *front_.shared->daemon.store; }
  // Checks name and request_id, then calls the manager.
  template <typename Request>
  Unary* Mutate(Context* context, const Request* request, v1::Job* response,
                absl::StatusOr<v1::Job> (jobs::JobManager::*method)(const Request&, const jobs::Caller&));
  absl::Status Create(const auth::Caller& caller, const v1::CreateJobRequest& request, v1::Job* response);
  absl::Status List(const auth::Caller& caller, const v1::ListJobsRequest& request, v1::ListJobsResponse* response) const;
  absl::Status CheckCreate(const v1::CreateJobRequest& request) const;
  absl::StatusOr<std::string> FindUid(const std::string& job_name) const;
  absl::Status Events(const v1::ListEventsRequest& request, v1::ListEventsResponse* response) const;
  absl::Status Metrics(const v1::QueryMetricsRequest& request, v1::QueryMetricsResponse* response) const;
  absl::Status Checkpoints(const v1::ListCheckpointsRequest& request, v1::ListCheckpointsResponse* response) const;

  const Front front_;
  const JobPlanner planner_;
};

}  // namespace finetuned::api
