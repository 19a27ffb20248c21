// What the worker is given and what it says, on the scheduler's thread.
#include <algorithm>
#include <filesystem>
#include <limits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "engine/job/failpoint.h"
#include "server/config/log.h"
#include "server/jobs/adapter.h"
#include "server/jobs/errors.h"
#include "server/jobs/loop.h"
#include "server/jobs/record.h"
#include "server/store/sync.h"

namespace finetuned::jobs {
namespace {

constexpr char kHelloKey[] = "worker_hello";
constexpr int kInfo = 1, kError = 3;  // LogLine.level

}  // namespace

void JobManager::Loop::SendRun(const std::string& name) {
  const store::JobRecord& record = live_.at(name);
  auto run = MakeRun(record);
  if (run.ok()) {
    last_beat_.Clear();
    for (const auto& [xid, count] : CountXids()) xids_[xid] = count;
    EndSamples(WhyBusy());
    backend_->Run(*run);
    return;
  }
  inbox_.push_back([this, name, message = std::string(run.status().message())] {
    const queue::Input failed = queue::WorkerDone{name, 78, v1::INVALID_CONFIGURATION, message};
    return Transact(&failed);
  });
}

absl::StatusOr<internal::v1::RunJob> JobManager::Loop::MakeRun(const store::JobRecord& record) const {
  const v1::JobSpec& spec = record.job.resolved_spec();
  internal::v1::RunJob run;
  run.set_job(record.job.name());
  run.set_attempt(record.job.attempt());
  *run.mutable_spec() = spec;
  auto model = config::ResolveModel(options_.config->models, spec.base_model());
  if (!model.ok()) return model.status();
  run.set_base_model_path(*std::move(model));
  if (!spec.dataset().empty()) {
    const auto dataset = store_->GetDataset(spec.dataset());
    if (!dataset.ok()) return dataset.status();
    run.set_dataset_path(store_->layout().DatasetFile(dataset->dataset.sha256()));
  }
  if (!spec.eval_dataset().empty()) {
    const auto eval = store_->GetDataset(spec.eval_dataset());
    if (!eval.ok()) return eval.status();
    run.set_eval_dataset_path(store_->layout().DatasetFile(eval->dataset.sha256()));
  }
  if (!spec.init_adapter().empty()) {
    const auto adapter = store_->GetAdapter(spec.init_adapter());
    if (!adapter.ok()) return adapter.status();
    run.set_init_adapter_path(adapter->directory);
  }
  run.set_reference_dir(store_->layout().ReferenceDir());
  run.set_created_unix_seconds(record.job.create_time().seconds());
  run.set_state_dir(store_->layout().JobDir(record.job.uid()));
  run.set_cpu_threads(options_.config->worker.cpu_threads);
  const int64_t limits[] = {options_.config->worker.vram_budget_bytes, record.job.scheduling().vram_limit_bytes()};
  for (const int64_t limit : limits) {
    const int64_t so_far = run.memory_limit_bytes();
    if (limit > 0) run.set_memory_limit_bytes(so_far > 0 ? std::min(so_far, limit) : limit);
  }
  std::error_code error;
  const bool made = std::filesystem::create_directories(run.state_dir(), error);
  if (error) {
    return absl::UnavailableError(absl::StrCat("cannot make the job's directory: ", error.message()));
  }
  // Else a power cut could take the folder with checkpoints that rows name.
  if (made) store::SyncDirectory(store_->layout().JobsDir());
  return run;
}

void JobManager::Loop::WorkerReady(int worker, const internal::v1::WorkerHello& hello) {
  Post([this, worker, hello] {
    inbox_.push_back([this, worker, hello]() -> absl::Status {
      if (worker != worker_) return absl::OkStatus();
      hello_ = hello;
      hello_->clear_token();
      problem_.clear();
      said_ = 1;  // the hello itself
      metrics_->Device(*hello_, options_.config->worker.vram_budget_bytes);
      ReadContext();
      store_->PutValue(kHelloKey, hello_->SerializeAsString()).IgnoreError();
      LogInfo(absl::StrCat("worker ready on ", hello_->device()));
      FT_FAILPOINT("worker.ready");
      const queue::Input input = queue::WorkerReady{};
      absl::Status status = Transact(&input);
      PublishView();
      if (status.ok()) SendWaitingSamples();
      return status;
    });
  });
}

void JobManager::Loop::WorkerSaid(int worker, internal::v1::WorkerMessage message) {
  Post([this, worker, message = std::move(message)]() mutable {
    inbox_.push_back([this, worker, message = std::move(message)] {
      return worker == worker_ ? TakeMessage(message) : absl::OkStatus();
    });
  });
}

void JobManager::Loop::WorkerExited(int worker, const std::string& how, const std::string& log) {
  Post([this, worker, how, log] {
    inbox_.push_back([this, worker, how, log] {
      return worker == worker_ ? TakeExit(how, log) : absl::OkStatus();
    });
  });
}

absl::Status JobManager::Loop::TakeMessage(const internal::v1::WorkerMessage& message) {
  absl::Status status;
  absl::Time flush_at = absl::Now() + options_.commit_delay;
  FT_FAILPOINT(message.has_event() ? "worker.event" : message.has_finished() ? "worker.finished" : "worker.other");
  if (message.has_event()) {
    status = TakeEvent(message.event());
    if (message.event().has_checkpoint()) flush_at = absl::Now();  // the worker waits for this one
  } else if (message.has_finished()) {
    status = TakeFinished(message.finished());
    flush_at = absl::Now();  // and this one
  } else if (message.has_heartbeat()) {
    TakeHeartbeat(message.heartbeat());
  } else if (message.has_reward()) {
    TakeQuestion(message.reward());
  } else if (message.has_sample()) {
    TakeSample(message.sample());
  }
  if (!status.ok()) return status;
  said_ = std::max(said_, message.sequence());
  flush_at_ = std::min(flush_at_, flush_at);
  return absl::OkStatus();
}

void JobManager::Loop::TakeHeartbeat(const internal::v1::WorkerHeartbeat& beat) {
  alive_ = true;
  progress_ = progress_ || beat.step() != last_beat_.step() || beat.phase() != last_beat_.phase();
  if (beat.step() > 1 && beat.reserved_bytes() > 0 && beat.reserved_bytes() == last_beat_.reserved_bytes()) {
    MeasureContext(beat);
  }
  last_beat_ = beat;
  metrics_->Heartbeat(beat);
}

void JobManager::Loop::AddPending(store::JobRecord* record, v1::Event event) {
  dirty_.insert(record->job.name());
  pending_.events.push_back({record->job.uid(), std::move(event)});
}

absl::Status JobManager::Loop::TakeEvent(const internal::v1::WorkerEvent& said) {
  alive_ = progress_ = true;
  const auto found = live_.find(said.job());
  // Of a job that has ended or been handed to another process meanwhile: late, not wrong.
  if (found == live_.end() || found->second.job.attempt() != said.attempt()) return absl::OkStatus();
  store::JobRecord* record = &found->second;
  v1::Job* job = &record->job;
  v1::Event event = NewEvent(*job, absl::FromUnixNanos(said.time_unix_nanos()));
  switch (said.event_case()) {
    case internal::v1::WorkerEvent::kPhase: {
      job->mutable_progress()->set_phase(said.phase());
      dirty_.insert(job->name());
      const queue::Input input = queue::WorkerPhase{said.job(), said.phase()};
      return Transact(&input);
    }
    case internal::v1::WorkerEvent::kPlan: TakePlan(said.plan(), record, std::move(event)); break;
    case internal::v1::WorkerEvent::kStep: TakeStep(said.step(), record, std::move(event)); break;
    case internal::v1::WorkerEvent::kEval: TakeEval(said.eval(), record, std::move(event)); break;
    case internal::v1::WorkerEvent::kCheckpoint:
      TakeCheckpoint(said.checkpoint(), record, std::move(event));
      break;
    case internal::v1::WorkerEvent::kWarning:
      event.mutable_warning()->set_code(said.warning().code());
      event.mutable_warning()->set_text(WithoutPaths(said.warning().text()));
      metrics_->Warning(job->name(), said.warning().code());
      AddPending(record, std::move(event));
      break;
    case internal::v1::WorkerEvent::kLog:
      event.mutable_log()->set_level(kInfo);
      event.mutable_log()->set_text(WithoutPaths(said.log()));
      AddPending(record, std::move(event));
      break;
    case internal::v1::WorkerEvent::kSample:
      *event.mutable_sample() = said.sample();
      AddPending(record, std::move(event));
      break;
    case internal::v1::WorkerEvent::EVENT_NOT_SET: break;
  }
  return absl::OkStatus();
}

void JobManager::Loop::TakePlan(const internal::v1::WorkerPlan& plan, store::JobRecord* record,
                                v1::Event event) {
  v1::Job* job = &record->job;
  job->mutable_progress()->set_step(plan.first_step());
  job->mutable_progress()->set_total_steps(plan.total_steps());
  if (job->attempts_size() > 0) {
    job->mutable_attempts(job->attempts_size() - 1)->set_start_step(plan.first_step());
  }
  const auto count = [&](const char* key) {
    const auto value = plan.dataset_stats().find(key);
    return value == plan.dataset_stats().end() ? int64_t{0} : static_cast<int64_t>(value->second);
  };
  v1::DatasetStats* stats = job->mutable_dataset_stats();
  stats->set_rows(count("rows"));
  stats->set_tokens(count("tokens"));
  stats->set_trained_tokens(count("trained_tokens"));
  stats->set_max_tokens(count("max_tokens"));
  stats->set_truncated_rows(count("truncated_rows"));
  stats->set_dropped_rows(count("dropped_rows"));
  stats->set_duplicate_rows(count("duplicate_rows"));
  v1::RunPlanned* planned = event.mutable_planned();
  planned->set_first_step(plan.first_step());
  planned->set_total_steps(plan.total_steps());
  *planned->mutable_dataset_stats() = plan.dataset_stats();
  pace_start_ = {plan.first_step(), absl::InfinitePast()};
  metrics_->Plan(job->name(), plan);
  AddPending(record, std::move(event));
}

void JobManager::Loop::TakeStep(const internal::v1::WorkerStep& step, store::JobRecord* record,
                                v1::Event event) {
  v1::Job* job = &record->job;
  const absl::Time time = ToTime(event.time());
  v1::Progress* progress = job->mutable_progress();
  progress->set_step(step.step());
  progress->set_epoch(step.epoch());
  *progress->mutable_last_step_time() = event.time();
  for (const auto& [key, value] : step.values()) (*progress->mutable_latest_metrics())[key] = value;
  const auto tokens = step.values().find("num_tokens");
  if (tokens != step.values().end()) progress->set_tokens(static_cast<int64_t>(tokens->second));
  *progress->mutable_elapsed() = ToProto(Elapsed(*job, time));
  // The pace counts from the end of the attempt's first step, which pays for warming up.
  if (pace_start_.second == absl::InfinitePast()) {
    pace_start_ = {step.step(), time};
  } else if (step.step() > pace_start_.first && progress->total_steps() > 0) {
    const absl::Duration per_step = (time - pace_start_.second) / (step.step() - pace_start_.first);
    *progress->mutable_remaining() = ToProto(per_step * (progress->total_steps() - step.step()));
  }
  event.mutable_metrics()->set_step(step.step());
  event.mutable_metrics()->set_epoch(step.epoch());
  *event.mutable_metrics()->mutable_values() = step.values();
  metrics_->Step(job->name(), step);
  AddPending(record, std::move(event));
}

double JobManager::Loop::BestEvalLoss(const store::JobRecord& record) {
  const auto found = best_eval_.find(record.job.name());
  if (found != best_eval_.end()) return found->second;
  double best = std::numeric_limits<double>::infinity();
  const auto events = store_->ReadEvents(record.job.uid(), 0, 100000, v1::Event::kEval);
  if (events.ok()) {
    for (const v1::Event& event : *events) {
      const auto loss = event.eval().values().find("eval_loss");
      if (loss != event.eval().values().end()) best = std::min(best, loss->second);
    }
  }
  return best;
}

void JobManager::Loop::TakeEval(const internal::v1::WorkerStep& eval, store::JobRecord* record,
                                v1::Event event) {
  const auto loss = eval.values().find("eval_loss");
  if (loss != eval.values().end()) {
    const double best = BestEvalLoss(*record);
    event.mutable_eval()->set_improved(loss->second < best);
    best_eval_[record->job.name()] = std::min(best, loss->second);
  }
  auto* latest = record->job.mutable_progress()->mutable_latest_metrics();
  for (const auto& [key, value] : eval.values()) (*latest)[key] = value;
  event.mutable_eval()->set_step(eval.step());
  *event.mutable_eval()->mutable_values() = eval.values();
  metrics_->Eval(record->job.name(), eval);
  AddPending(record, std::move(event));
}

void JobManager::Loop::TakeCheckpoint(const internal::v1::WorkerCheckpoint& saved, store::JobRecord* record,
                                      v1::Event event) {
  const v1::Job& job = record->job;
  const std::string dir = store_->layout().JobDir(job.uid());
  store::CheckpointRecord row;
  row.uid = job.uid();
  row.directory = saved.directory();
  row.checkpoint.set_name(absl::StrCat(job.name(), "/checkpoints/", saved.step()));
  row.checkpoint.set_step(saved.step());
  row.checkpoint.set_epoch(job.progress().epoch());
  row.checkpoint.set_size_bytes(saved.bytes());
  row.checkpoint.set_resumable(true);
  *row.checkpoint.mutable_create_time() = event.time();
  *row.checkpoint.mutable_metrics() = job.progress().latest_metrics();
  FT_FAILPOINT("worker.checkpoint");
  // The worker removes old ones; rows follow what is there.
  if (const auto rows = store_->ListCheckpoints(job.uid()); rows.ok()) {
    std::vector<store::CheckpointRecord> all = std::move(pending_.checkpoints);
    all.insert(all.end(), rows->begin(), rows->end());
    pending_.checkpoints.clear();
    pending_.forget_checkpoints = {job.uid()};
    std::error_code error;
    for (store::CheckpointRecord& old : all) {
      const bool kept = std::filesystem::exists(dir + "/" + old.directory, error);
      if (kept && old.checkpoint.step() != saved.step()) pending_.checkpoints.push_back(std::move(old));
    }
  }
  event.mutable_checkpoint()->set_checkpoint(row.checkpoint.name());
  event.mutable_checkpoint()->set_step(saved.step());
  event.mutable_checkpoint()->set_size_bytes(saved.bytes());
  pending_.checkpoints.push_back(std::move(row));
  metrics_->Checkpoint(job.name(), ToTime(event.time()));
  AddPending(record, std::move(event));
}

absl::Status JobManager::Loop::TakeFinished(const internal::v1::WorkerFinished& finished) {
  const auto found = live_.find(finished.job());
  if (found == live_.end() || found->second.job.attempt() != finished.attempt()) return absl::OkStatus();
  const store::JobRecord& record = found->second;
  queue::WorkerDone done = {finished.job(), finished.outcome(), ParseReason(finished.reason()),
                            WithoutPaths(finished.message())};
  if (finished.reason() == "IO_ERROR") done.reason = v1::INTERNAL_ERROR;
  if (done.outcome == 78 && done.reason == v1::STATE_REASON_UNSPECIFIED) done.reason = v1::INVALID_CONFIGURATION;
  done.infrastructure = finished.reason() == "IO_ERROR" || done.reason == v1::GPU_XID_ERROR;
  Extra extra;
  if (done.outcome == 0 && record.job.state() != v1::CANCELLING) {
    auto adapter = TakeAdapter(store_->layout(), record.job, finished, absl::Now());
    if (absl::IsUnavailable(adapter.status())) return adapter.status();  // tried again
    FT_FAILPOINT("worker.adapter_taken");
    if (adapter.ok()) {
      // An adapter may outlive its job; a new job of the same name does not replace it.
      const auto same = store_->GetAdapter(adapter->adapter.name());
      if (same.ok() && same->directory != adapter->directory) {
        adapter->adapter.set_name(absl::StrCat(adapter->adapter.name(), "-", record.job.uid().substr(0, 8)));
      }
      extra.edited = finished.job();
      extra.edit = [name = adapter->adapter.name()](v1::Job* job) { job->set_output_adapter(name); };
      extra.adapters.push_back(*std::move(adapter));
    } else {
      done.outcome = 70;
      done.reason = v1::INTERNAL_ERROR;
      done.message = WithoutPaths(std::string(adapter.status().message()));
    }
  }
  const queue::Input input = std::move(done);
  return Transact(&input, std::move(extra));
}

absl::Status JobManager::Loop::TakeExit(const std::string& how, const std::string& log) {
  const bool expected = scheduler_.worker() == queue::WorkerState::kStopping;
  const std::string message = absl::StrCat("the worker ", how);
  Extra extra;
  const auto holder = live_.find(scheduler_.holder());
  if (holder != live_.end() && !log.empty()) {
    const v1::Job& job = holder->second.job;
    v1::Event event = NewEvent(job, absl::Now());
    event.mutable_log()->set_level(kError);
    event.mutable_log()->set_text(absl::StrCat(message, "; its last words:\n", WithoutPaths(log)));
    extra.events.push_back({job.uid(), std::move(event)});
  }
  FT_FAILPOINT("worker.exit");
  const queue::Input input = queue::WorkerGone{message};
  if (absl::Status status = Transact(&input, std::move(extra)); !status.ok()) return status;
  if (!expected) {
    problem_ = message;
    LogWarning(message);
  }
  EndSamples(DeviceBusy(absl::StrCat(message, " before it had generated everything"), /*retry_seconds=*/5));
  PublishView();
  return absl::OkStatus();
}

}  // namespace finetuned::jobs
