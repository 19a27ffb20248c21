// The calls of finetuned.v1.Jobs that read a job's history.

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/api/jobs_service.h"
#include "server/api/list_filter.h"
#include "server/api/metric_series.h"
#include "server/api/names.h"
#include "server/api/watch_stream.h"

namespace finetuned::api {
namespace {

constexpr int kDefaultPoints = 1000;
constexpr int kMinPoints = 3;
constexpr int kMaxPoints = 100'000;

// What `type = metrics` selects: the field number of the payload; 0: everything.
absl::StatusOr<int> KindOfFilter(const std::string& text) {
  const auto filter = ListFilter::Parse(text, {"type"});
  if (!filter.ok()) return filter.status();
  if (filter->terms().empty()) return 0;
  const auto kind = EventKind(filter->terms()[0].value);
  if (filter->terms().size() > 1 || !filter->terms()[0].equal || !kind.has_value()) {
    return InvalidField("filter", absl::StrCat("must be type = KIND with one of: ", EventKindNames()));
  }
  return *kind;
}

}  // namespace

absl::StatusOr<std::string> JobsService::FindUid(const std::string& job_name) const {
  const auto id = ParseName("jobs", job_name, "parent");
  if (!id.ok()) return id.status();
  const auto job = manager().GetJob(job_name);
  if (!job.ok()) return job.status();
  return job->uid();
}

absl::Status JobsService::Events(const v1::ListEventsRequest& request, v1::ListEventsResponse* response) const {
  const auto uid = FindUid(request.parent());
  if (!uid.ok()) return uid.status();
  const auto kind = KindOfFilter(request.filter());
  if (!kind.ok()) return kind.status();
  const auto size = PageSize(request.page_size(), 100, 1000);
  if (!size.ok()) return size.status();
  const std::string query = absl::StrCat("events ", *uid, " ", *kind);
  const auto last = DecodePageToken(query, request.page_token());
  if (!last.ok()) return last.status();
  int64_t after = 0;
  (void)absl::SimpleAtoi(*last, &after);  // empty: from the start
  auto events = store().ReadEvents(*uid, after, *size + 1, *kind);
  if (!events.ok()) return events.status();
  const bool more = events->size() > static_cast<size_t>(*size);
  if (more) events->pop_back();
  for (v1::Event& event : *events) *response->add_events() = std::move(event);
  if (more) {
    response->set_next_page_token(
        EncodePageToken(query, absl::StrCat(response->events(response->events_size() - 1).sequence())));
  }
  return absl::OkStatus();
}

absl::Status JobsService::Metrics(const v1::QueryMetricsRequest& request,
                                  v1::QueryMetricsResponse* response) const {
  const auto uid = FindUid(request.parent());
  if (!uid.ok()) return uid.status();
  const int points = request.max_points() == 0 ? kDefaultPoints : request.max_points();
  std::vector<spec::Violation> wrong;
  if (points < kMinPoints || points > kMaxPoints) {
    wrong.push_back({"max_points", absl::StrCat("must be 0 or ", kMinPoints, " to ", kMaxPoints, ", got ", points)});
  }
  if (request.min_step() < 0) wrong.push_back({"min_step", "must not be negative"});
  if (request.max_step() != 0 && request.max_step() < request.min_step()) {
    wrong.push_back({"max_step", "is below min_step"});
  }
  if (!wrong.empty()) return InvalidFields(wrong);
  const auto samples = store().QueryMetrics(*uid, request.min_step(), request.max_step());
  if (!samples.ok()) return samples.status();
  const std::vector<std::string> keys(request.keys().begin(), request.keys().end());
  for (v1::MetricSeries& series : BuildSeries(*samples, keys, points)) *response->add_series() = std::move(series);
  return absl::OkStatus();
}

absl::Status JobsService::Checkpoints(const v1::ListCheckpointsRequest& request,
                                      v1::ListCheckpointsResponse* response) const {
  const auto uid = FindUid(request.parent());
  if (!uid.ok()) return uid.status();
  const auto size = PageSize(request.page_size(), 100, 1000);
  if (!size.ok()) return size.status();
  const std::string& order = request.order_by();
  if (!order.empty() && order != "step" && order != "step desc") {
    return InvalidField("order_by", "allowed: step, step desc (default)");
  }
  auto records = store().ListCheckpoints(*uid);  // newest first; a job keeps few
  if (!records.ok()) return records.status();
  if (order == "step") std::reverse(records->begin(), records->end());
  const std::string query = absl::StrCat("checkpoints ", *uid, " ", order);
  const auto last = DecodePageToken(query, request.page_token());
  if (!last.ok()) return last.status();
  auto next = records->begin();
  if (!last->empty()) {
    next = std::find_if(next, records->end(), [&](const auto& r) { return r.checkpoint.name() == *last; });
    if (next != records->end()) ++next;
  }
  for (; next != records->end(); ++next) {
    if (response->checkpoints_size() == *size) {
      response->set_next_page_token(EncodePageToken(query, response->checkpoints(*size - 1).name()));
      break;
    }
    *response->add_checkpoints() = next->checkpoint;
  }
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* JobsService::ListEvents(Context* context, const v1::ListEventsRequest* request,
                                                  v1::ListEventsResponse* response) {
  return api::Unary(front_, context, front_.shared->quick, *request,
                    [=, this](const auth::Caller&) { return Events(*request, response); });
}

grpc::ServerUnaryReactor* JobsService::QueryMetrics(Context* context, const v1::QueryMetricsRequest* request,
                                                    v1::QueryMetricsResponse* response) {
  return api::Unary(front_, context, front_.shared->quick, *request,
                    [=, this](const auth::Caller&) { return Metrics(*request, response); });
}

grpc::ServerUnaryReactor* JobsService::ListCheckpoints(Context* context, const v1::ListCheckpointsRequest* request,
                                                       v1::ListCheckpointsResponse* response) {
  return api::Unary(front_, context, front_.shared->quick, *request,
                    [=, this](const auth::Caller&) { return Checkpoints(*request, response); });
}

}  // namespace finetuned::api
