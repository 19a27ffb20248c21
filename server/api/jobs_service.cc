#include "server/api/jobs_service.h"

#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "proto/spec/tools.h"
#include "server/api/disk.h"
#include "server/api/job_checks.h"
#include "server/api/list_filter.h"
#include "server/api/names.h"
#include "server/api/token_count.h"
#include "server/api/watch_stream.h"

namespace finetuned::api {
namespace {

// Both checks that every mutation starts with.
absl::Status CheckTarget(const std::string& name, const std::string& request_id) {
  const auto id = ParseName("jobs", name);
  if (!id.ok()) return id.status();
  const auto violations = CheckRequestId(request_id);
  return violations.empty() ? absl::OkStatus() : InvalidFields(violations);
}

// "jobs/x/checkpoints/100" of this very job.
absl::Status CheckCheckpointName(const std::string& job, const std::string& checkpoint) {
  const std::string prefix = job + "/checkpoints/";
  const bool digits = checkpoint.size() > prefix.size() &&
                      checkpoint.find_first_not_of("0123456789", prefix.size()) == std::string::npos;
  if (checkpoint.empty() || (checkpoint.starts_with(prefix) && digits)) return absl::OkStatus();
  return InvalidField("checkpoint", absl::StrCat("must be ", prefix, "STEP"));
}

std::optional<std::string> FieldOf(const v1::Job& job, const std::string& field) {
  if (field == "state") return v1::JobState_Name(job.state());
  if (field == "method") return spec::MethodName(job.spec());
  if (field == "owner") return job.owner();
  const auto label = job.labels().find(field.substr(std::string_view("labels.").size()));
  if (label == job.labels().end()) return std::nullopt;
  return label->second;
}

// The terms of `filter` that the store can apply to its columns.
absl::StatusOr<store::JobFilter> StoreFilter(const ListFilter& filter) {
  store::JobFilter out;
  for (const ListFilter::Term& term : filter.terms()) {
    if (term.field == "method" && term.equal) out.method = term.value;
    if (term.field != "state") continue;
    v1::JobState state;
    if (!v1::JobState_Parse(term.value, &state)) {
      return InvalidField("filter", absl::StrCat("\"", term.value, "\" is no state of a job; QUEUED is one"));
    }
    if (term.equal) out.state = state;
  }
  return out;
}

template <typename Request>
absl::Status CheckOthers(const Request& request) {
  if constexpr (requires { request.checkpoint(); }) {
    return CheckCheckpointName(request.name(), request.checkpoint());
  }
  return absl::OkStatus();
}

}  // namespace

template <typename Request>
grpc::ServerUnaryReactor* JobsService::Mutate(
    Context* context, const Request* request, v1::Job* response,
    absl::StatusOr<v1::Job> (jobs::JobManager::*method)(const Request&, const jobs::Caller&)) {
  return api::Unary(front_, context, front_.shared->quick, *request, [=, this](const auth::Caller& caller) {
    absl::Status status = CheckTarget(request->name(), request->request_id());
    if (status.ok()) status = CheckOthers(*request);
    if (!status.ok()) return status;
    return Answer((manager().*method)(*request, MakeCaller(caller, *request)), response);
  });
}

grpc::ServerUnaryReactor* JobsService::CreateJob(Context* context, const v1::CreateJobRequest* request,
                                                 v1::Job* response) {
  return api::Unary(front_, context, front_.shared->slow, *request, [=, this](const auth::Caller& caller) {
    const absl::Status status = Create(caller, *request, response);
    if (!status.ok() && front_.shared->daemon.metrics != nullptr) {
      front_.shared->daemon.metrics->JobRejected(RejectionReason(status));
    }
    return status;
  });
}

absl::Status JobsService::CheckCreate(const v1::CreateJobRequest& request) const {
  std::vector<spec::Violation> wrong = CheckRequestId(request.request_id());
  if (!request.job_id().empty() && !IsValidId(request.job_id())) {
    wrong.push_back({"job_id", "must match [a-z][a-z0-9-]{2,62}"});
  }
  if (!request.has_job()) wrong.push_back({"job", "is required"});
  for (auto& violation : CheckJobFields(request.job())) wrong.push_back(std::move(violation));
  for (auto& violation : spec::ValidateSpec(request.job().spec())) wrong.push_back(std::move(violation));
  if (!wrong.empty()) return InvalidFields(wrong);
  for (const std::string& after : request.job().scheduling().after()) {
    const auto job = manager().GetJob(after);
    if (!job.ok()) return job.status();
  }
  return absl::OkStatus();
}

absl::Status JobsService::Create(const auth::Caller& caller, const v1::CreateJobRequest& request,
                                 v1::Job* response) {
  const jobs::Caller who = MakeCaller(caller, request);
  if (!who.request_id.empty() && !request.validate_only()) {
    // A repeated call gets its answer even when planning would refuse by now.
    const auto known = store().FindRequest(who.principal, who.request_id, "CreateJob", who.fingerprint);
    if (known.ok()) {
      response->ParseFromString(known->response);
      return absl::OkStatus();
    }
    if (!absl::IsNotFound(known.status())) return known.status();
  }
  const absl::Status checked = CheckCreate(request);
  if (!checked.ok()) return checked;
  if (!manager().accepting()) {
    return Unavailable("DRAINING", "the daemon is being stopped and takes no new jobs", std::chrono::seconds(10));
  }
  const absl::Status room =
      CheckFreeDisk(store().layout().state_dir, 0, front_.shared->daemon.config->limits.min_free_disk_bytes);
  if (!room.ok()) return room;
  const auto planned = planner_.Plan(request.job());
  if (!planned.ok()) return planned.status();
  const absl::Status fits = JobPlanner::CheckFits(*planned);
  if (!fits.ok()) return fits;
  v1::Job job;
  job.set_display_name(request.job().display_name());
  *job.mutable_labels() = request.job().labels();
  *job.mutable_spec() = request.job().spec();
  *job.mutable_resolved_spec() = planned->resolved;
  *job.mutable_scheduling() = request.job().scheduling();
  if (request.job().has_ttl()) *job.mutable_ttl() = request.job().ttl();
  *job.mutable_memory() = planned->memory;
  const double seconds = planned->uncut ? EstimateSeconds(*planned, planned->uncut->stats) : 0;
  if (seconds > 0) job.mutable_progress()->mutable_remaining()->set_seconds(std::llround(seconds));
  if (request.validate_only()) {
    *response = std::move(job);
    return absl::OkStatus();
  }
  return Answer(manager().CreateJob(std::move(job), request.job_id(), who), response);
}

grpc::ServerUnaryReactor* JobsService::GetJob(Context* context, const v1::GetJobRequest* request,
                                              v1::Job* response) {
  return api::Unary(front_, context, front_.shared->quick, *request, [=, this](const auth::Caller&) {
    absl::Status status = CheckTarget(request->name(), "");
    if (!status.ok()) return status;
    const auto violations = CheckReadMask(request->read_mask());
    if (!violations.empty()) return InvalidFields(violations);
    status = Answer(manager().GetJob(request->name()), response);
    if (status.ok()) ApplyReadMask(request->read_mask(), response);
    return status;
  });
}

absl::Status JobsService::List(const auth::Caller& caller, const v1::ListJobsRequest& request,
                               v1::ListJobsResponse* response) const {
  const auto violations = CheckReadMask(request.read_mask());
  if (!violations.empty()) return InvalidFields(violations);
  const auto filter = ListFilter::Parse(request.filter(), {"state", "method", "owner", "labels."});
  if (!filter.ok()) return filter.status();
  const auto size = PageSize(request.page_size(), 50, 1000);
  if (!size.ok()) return size.status();
  const std::string query = absl::StrCat("jobs ", request.order_by(), " ", request.filter());
  auto token = DecodePageToken(query, request.page_token());
  if (!token.ok()) return token.status();
  jobs::ListQuery list;
  list.page_size = *size;
  list.page_token = *std::move(token);
  list.order_by = request.order_by();
  auto stored = StoreFilter(*filter);
  if (!stored.ok()) return stored.status();
  list.filter = *std::move(stored);
  const Access& access = front_.shared->access;
  if (!filter->terms().empty() || !access.SeesAll(caller)) {
    list.matches = [&](const v1::Job& job) {
      return access.MaySee(caller, job.owner()) &&
             filter->Matches([&](const std::string& field) { return FieldOf(job, field); });
    };
  }
  auto answer = manager().ListJobs(list);
  if (!answer.ok()) return answer.status();
  for (v1::Job& job : answer->jobs) {
    ApplyReadMask(request.read_mask(), &job);
    *response->add_jobs() = std::move(job);
  }
  if (!answer->next_page_token.empty()) {
    response->set_next_page_token(EncodePageToken(query, answer->next_page_token));
  }
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* JobsService::ListJobs(Context* context, const v1::ListJobsRequest* request,
                                                v1::ListJobsResponse* response) {
  return api::Unary(front_, context, front_.shared->quick, *request,
                    [=, this](const auth::Caller& caller) { return List(caller, *request, response); });
}

grpc::ServerUnaryReactor* JobsService::UpdateJob(Context* context, const v1::UpdateJobRequest* request,
                                                 v1::Job* response) {
  return api::Unary(front_, context, front_.shared->quick, *request, [=, this](const auth::Caller& caller) {
    const auto id = ParseName("jobs", request->job().name(), "job.name");
    if (!id.ok()) return id.status();
    std::vector<spec::Violation> wrong = CheckRequestId(request->request_id());
    for (auto& violation : CheckUpdate(*request)) wrong.push_back(std::move(violation));
    if (!wrong.empty()) return InvalidFields(wrong);
    return Answer(manager().UpdateJob(*request, MakeCaller(caller, *request)), response);
  });
}

grpc::ServerUnaryReactor* JobsService::DeleteJob(Context* context, const v1::DeleteJobRequest* request,
                                                 google::protobuf::Empty*) {
  return api::Unary(front_, context, front_.shared->quick, *request, [=, this](const auth::Caller& caller) {
    const absl::Status status = CheckTarget(request->name(), request->request_id());
    if (!status.ok()) return status;
    return manager().DeleteJob(*request, MakeCaller(caller, *request));
  });
}

grpc::ServerUnaryReactor* JobsService::CancelJob(Context* context, const v1::CancelJobRequest* request,
                                                 v1::Job* response) {
  return Mutate(context, request, response, &jobs::JobManager::CancelJob);
}

grpc::ServerUnaryReactor* JobsService::PauseJob(Context* context, const v1::PauseJobRequest* request,
                                                v1::Job* response) {
  return Mutate(context, request, response, &jobs::JobManager::PauseJob);
}

grpc::ServerUnaryReactor* JobsService::ResumeJob(Context* context, const v1::ResumeJobRequest* request,
                                                 v1::Job* response) {
  return Mutate(context, request, response, &jobs::JobManager::ResumeJob);
}

grpc::ServerUnaryReactor* JobsService::RetryJob(Context* context, const v1::RetryJobRequest* request,
                                                v1::Job* response) {
  return Mutate(context, request, response, &jobs::JobManager::RetryJob);
}

grpc::ServerUnaryReactor* JobsService::StopJob(Context* context, const v1::StopJobRequest* request,
                                               v1::Job* response) {
  return Mutate(context, request, response, &jobs::JobManager::StopJob);
}

grpc::ServerUnaryReactor* JobsService::CheckpointJob(Context* context, const v1::CheckpointJobRequest* request,
                                                     v1::Job* response) {
  return Mutate(context, request, response, &jobs::JobManager::CheckpointJob);
}

grpc::ServerUnaryReactor* JobsService::PlanJob(Context* context, const v1::PlanJobRequest* request,
                                               v1::JobPlan* response) {
  return api::Unary(front_, context, front_.shared->slow, *request, [=, this](const auth::Caller&) {
    if (request->measure()) return NotAvailable("measure", "measuring a plan on the device is not in this version");
    const auto violations = CheckJobFields(request->job());
    if (!violations.empty()) return InvalidFields(violations);
    return Answer(planner_.FullPlan(request->job()), response);
  });
}

grpc::ServerWriteReactor<v1::WatchJobResponse>* JobsService::WatchJob(Context* context,
                                                                      const v1::WatchJobRequest* request) {
  return WatchStream::Start(front_, context, *request);
}

}  // namespace finetuned::api
