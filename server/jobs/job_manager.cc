#include "server/jobs/job_manager.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "server/jobs/errors.h"
#include "server/jobs/loop.h"
#include "server/jobs/record.h"

namespace finetuned::jobs {
namespace {

constexpr int kDefaultPage = 50;
constexpr int kLargestPage = 1000;

absl::StatusOr<store::JobOrder> ParseOrder(const std::string& order_by) {
  if (order_by.empty() || order_by == "create_time desc") return store::JobOrder::kCreateTimeDescending;
  if (order_by == "create_time" || order_by == "create_time asc") return store::JobOrder::kCreateTime;
  if (order_by == "priority desc") return store::JobOrder::kPriorityDescending;
  return absl::InvalidArgumentError(absl::StrCat("order_by: \"", order_by,
                                                 "\" is not one of create_time desc, create_time, "
                                                 "priority desc"));
}

// "order key id", encoded: opaque to clients.
std::string MakeToken(store::JobOrder order, const store::JobCursor& cursor) {
  return absl::WebSafeBase64Escape(absl::StrCat(static_cast<int>(order), " ", cursor.key, " ", cursor.id));
}

absl::StatusOr<std::optional<store::JobCursor>> ParseToken(const std::string& token, store::JobOrder order) {
  if (token.empty()) return std::optional<store::JobCursor>();
  std::string text;
  int stored_order = -1;
  store::JobCursor cursor;
  if (!absl::WebSafeBase64Unescape(token, &text) ||
      std::sscanf(text.c_str(), "%d %" SCNd64 " %" SCNd64, &stored_order, &cursor.key, &cursor.id) != 3 ||
      stored_order != static_cast<int>(order)) {
    return absl::InvalidArgumentError("page_token: not one that ListJobs gave for this order_by");
  }
  return std::optional<store::JobCursor>(cursor);
}

queue::UserRequest Request(const std::string& job, queue::JobEvent event, const std::string& why = "") {
  queue::UserRequest request;
  request.job = job;
  request.event = event;
  request.message = why;
  return request;
}

absl::Status OnlyNewest(const std::string& checkpoint) {
  if (checkpoint.empty()) return absl::OkStatus();
  return absl::UnimplementedError(
      "checkpoint: going on from another checkpoint than the newest is not possible yet; leave it empty");
}

}  // namespace

JobManager::JobManager(Options options, store::Store* store, metrics::Metrics* metrics)
    : store_(store), bus_(store),
      loop_(std::make_unique<Loop>(std::move(options), store, metrics, &bus_)) {}

JobManager::~JobManager() { Stop(); }

absl::Status JobManager::Start(supervisor::Backend* backend) { return loop_->Start(backend); }
void JobManager::Stop() { loop_->Stop(); }

absl::StatusOr<v1::Job> JobManager::CreateJob(v1::Job job, const std::string& job_id, const Caller& caller) {
  auto answer = loop_->Call<v1::Job>([&] { return loop_->Create(std::move(job), job_id, caller); });
  if (answer.ok()) loop_->Overlay(&*answer);
  return answer;
}

absl::StatusOr<v1::Job> JobManager::CancelJob(const v1::CancelJobRequest& r, const Caller& caller) {
  return loop_->Call<v1::Job>([&] {
    return loop_->Command("CancelJob", Request(r.name(), queue::JobEvent::kCancel, r.reason()), r.etag(), caller);
  });
}

absl::StatusOr<v1::Job> JobManager::PauseJob(const v1::PauseJobRequest& r, const Caller& caller) {
  return loop_->Call<v1::Job>([&] {
    queue::UserRequest request = Request(r.name(), queue::JobEvent::kPause);
    request.grace = ToDuration(r.grace_period());
    return loop_->Command("PauseJob", std::move(request), r.etag(), caller);
  });
}

absl::StatusOr<v1::Job> JobManager::ResumeJob(const v1::ResumeJobRequest& r, const Caller& caller) {
  if (absl::Status status = OnlyNewest(r.checkpoint()); !status.ok()) return status;
  auto answer = loop_->Call<v1::Job>([&] {
    return loop_->Command("ResumeJob", Request(r.name(), queue::JobEvent::kResume), r.etag(), caller);
  });
  if (answer.ok()) loop_->Overlay(&*answer);
  return answer;
}

absl::StatusOr<v1::Job> JobManager::RetryJob(const v1::RetryJobRequest& r, const Caller& caller) {
  if (absl::Status status = OnlyNewest(r.checkpoint()); !status.ok()) return status;
  auto answer = loop_->Call<v1::Job>([&] { return loop_->Retry(r.name(), caller); });
  if (answer.ok()) loop_->Overlay(&*answer);
  return answer;
}

absl::StatusOr<v1::Job> JobManager::StopJob(const v1::StopJobRequest& r, const Caller& caller) {
  return loop_->Call<v1::Job>([&] {
    return loop_->Command("StopJob", Request(r.name(), queue::JobEvent::kStop), "", caller);
  });
}

absl::StatusOr<v1::Job> JobManager::CheckpointJob(const v1::CheckpointJobRequest& r, const Caller& caller) {
  return loop_->Call<v1::Job>([&] {
    return loop_->Command("CheckpointJob", Request(r.name(), queue::JobEvent::kCheckpoint), "", caller);
  });
}

absl::StatusOr<v1::Job> JobManager::UpdateJob(const v1::UpdateJobRequest& r, const Caller& caller) {
  auto answer = loop_->Call<v1::Job>([&] { return loop_->Update(r, caller); });
  if (answer.ok()) loop_->Overlay(&*answer);
  return answer;
}

absl::Status JobManager::DeleteJob(const v1::DeleteJobRequest& r, const Caller& caller) {
  return loop_->Call<bool>([&] { return loop_->Delete(r, caller); }).status();
}

absl::StatusOr<v1::Job> JobManager::GetJob(const std::string& name) const {
  auto record = store_->GetJob(name);
  if (absl::IsNotFound(record.status())) return NotFound("job", name);
  if (!record.ok()) return record.status();
  loop_->Overlay(&record->job);
  return std::move(record->job);
}

absl::StatusOr<ListAnswer> JobManager::ListJobs(const ListQuery& query) const {
  const auto order = ParseOrder(query.order_by);
  if (!order.ok()) return order.status();
  auto cursor = ParseToken(query.page_token, *order);
  if (!cursor.ok()) return cursor.status();
  if (query.page_size < 0) return absl::InvalidArgumentError("page_size: must not be negative");
  const size_t size = query.page_size == 0 ? kDefaultPage : std::min(query.page_size, kLargestPage);
  ListAnswer answer;
  for (;;) {
    // One more than asked for tells whether there is a next page.
    auto page = store_->ListJobs(*order, *cursor, static_cast<int>(size) + 1, query.filter);
    if (!page.ok()) return page.status();
    for (size_t i = 0; i < page->jobs.size(); ++i) {
      v1::Job& job = page->jobs[i].job;
      loop_->Overlay(&job);
      if (!query.matches || query.matches(job)) {
        if (answer.jobs.size() == size) {
          answer.next_page_token = MakeToken(*order, **cursor);
          return answer;
        }
        answer.jobs.push_back(std::move(job));
      }
      *cursor = page->cursors[i];
    }
    if (page->jobs.size() <= size) return answer;
  }
}

absl::StatusOr<std::shared_ptr<Subscription>> JobManager::Subscribe(const std::string& name,
                                                                    int64_t after_sequence) {
  const auto record = store_->GetJob(name);
  if (absl::IsNotFound(record.status())) return NotFound("job", name);
  if (!record.ok()) return record.status();
  return bus_.Subscribe(record->job.uid(), name, after_sequence);
}

rewards::RewardHub& JobManager::rewards() { return loop_->rewards(); }

absl::StatusOr<int64_t> JobManager::Sample(internal::v1::RunSample sample, std::shared_ptr<SampleSink> sink) {
  return loop_->Call<int64_t>([this, sample = std::move(sample), sink = std::move(sink)] {
    return loop_->Sample(sample, sink);
  });
}

void JobManager::CancelSample(int64_t id) {
  loop_->Post([this, id] { loop_->CancelSample(id); });
}

bool JobManager::UsesDataset(const std::string& name) const {
  const auto used = loop_->Call<bool>([&]() -> absl::StatusOr<bool> { return loop_->UsesDataset(name); });
  return !used.ok() || *used;
}

bool JobManager::UsesAdapter(const std::string& name) const {
  const auto used = loop_->Call<bool>([&]() -> absl::StatusOr<bool> { return loop_->UsesAdapter(name); });
  return !used.ok() || *used;
}

WorkerStatus JobManager::Worker() const { return loop_->Worker(); }
bool JobManager::accepting() const { return loop_->accepting(); }

void JobManager::Drain(absl::Duration grace, bool pause_running) {
  loop_->Post([this, grace, pause_running] { loop_->Drain(grace, pause_running); });
}

void JobManager::OnWorkerReady(int worker, const internal::v1::WorkerHello& hello) {
  loop_->WorkerReady(worker, hello);
}
void JobManager::OnWorkerMessage(int worker, internal::v1::WorkerMessage message) {
  loop_->WorkerSaid(worker, std::move(message));
}
void JobManager::OnWorkerExit(int worker, const std::string& how, const std::string& log) {
  loop_->WorkerExited(worker, how, log);
}

}  // namespace finetuned::jobs
