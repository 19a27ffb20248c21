#include "engine/worker/link.h"

#include <chrono>
#include <utility>

namespace finetuned::worker {
namespace {

constexpr std::chrono::seconds kHeartbeatInterval(2);

}  // namespace

Link::Link(const std::string& address, const internal::WorkerHello& hello) {
  auto channel = grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
  stub_ = internal::WorkerLink::NewStub(channel);
  stream_ = stub_->Attach(&context_);
  internal::WorkerMessage message;
  *message.mutable_hello() = hello;
  Send(std::move(message));
  reader_ = std::thread([this] { ReadLoop(); });
  writer_ = std::thread([this] { WriteLoop(); });
}

Link::~Link() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  writer_.join();
  context_.TryCancel();
  reader_.join();
}

void Link::Send(internal::WorkerMessage message) {
  {
    std::lock_guard lock(mutex_);
    message.set_sequence(++sequence_);
    outbox_.push_back(std::move(message));
  }
  changed_.notify_all();
}

std::optional<Work> Link::NextWork() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !jobs_.empty() || !samples_.empty() || shutdown_ || lost_; });
  if (shutdown_ || lost_) return std::nullopt;
  Work work;
  if (!jobs_.empty()) {
    work.run = std::move(jobs_.front());
    jobs_.pop_front();
  } else {
    work.sample = std::move(samples_.front());
    samples_.pop_front();
  }
  return work;
}

void Link::SetSampling(int64_t id, std::atomic<bool>* cancel) {
  std::lock_guard lock(mutex_);
  sampling_ = id;
  cancel_sample_ = cancel;
  if (lost_ || shutdown_ || !jobs_.empty()) StopSampling();
}

void Link::StopSampling() {
  if (cancel_sample_ != nullptr) *cancel_sample_ = true;
}

void Link::SetRunning(const std::string& job, job::RunControl* control) {
  std::lock_guard lock(mutex_);
  running_ = job;
  control_ = control;
  answers_.clear();
  if (control_ == nullptr) return;
  if (lost_ || shutdown_) control_->leave = true;
  for (const internal::JobSignal& signal : std::exchange(early_, {})) Apply(signal);
}

void Link::Flush() {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, std::chrono::seconds(30),
                    [this] { return acknowledged_ >= sequence_ || lost_; });
}

void Link::Apply(const internal::JobSignal& signal) {
  if (control_ == nullptr || signal.job() != running_) {
    // For one that has not begun it waits; for a job that has ended already it is late, not wrong.
    early_.push_back(signal);
    return;
  }
  switch (signal.kind()) {
    case internal::JobSignal::CHECKPOINT: control_->checkpoint = true; break;
    case internal::JobSignal::LEAVE: control_->leave = true; break;
    case internal::JobSignal::FINISH: control_->finish = true; break;
    case internal::JobSignal::CANCEL: control_->cancel = true; break;
    default: break;
  }
}

void Link::ReadLoop() {
  internal::WorkerCommand command;
  while (stream_->Read(&command)) {
    std::lock_guard lock(mutex_);
    acknowledged_ = std::max(acknowledged_, command.acknowledged());
    switch (command.command_case()) {
      case internal::WorkerCommand::kRun:
        // What was said of an earlier attempt is not meant for this one.
        std::erase_if(early_, [&](const auto& signal) { return signal.job() == command.run().job(); });
        jobs_.push_back(command.run());
        StopSampling();  // a job does not wait for people
        break;
      case internal::WorkerCommand::kSample: samples_.push_back(command.sample()); break;
      case internal::WorkerCommand::kCancelSample:
        std::erase_if(samples_, [&](const auto& s) { return s.id() == command.cancel_sample().id(); });
        if (command.cancel_sample().id() == sampling_) StopSampling();
        break;
      case internal::WorkerCommand::kSignal: Apply(command.signal()); break;
      case internal::WorkerCommand::kReward:
        if (command.reward().job() == running_) answers_[command.reward().batch_id()] = command.reward();
        break;
      case internal::WorkerCommand::kShutdown:
        shutdown_ = true;
        if (control_ != nullptr) control_->leave = true;
        StopSampling();
        break;
      default: break;
    }
    changed_.notify_all();
  }
  std::lock_guard lock(mutex_);
  lost_ = true;
  if (control_ != nullptr) control_->leave = true;
  StopSampling();
  changed_.notify_all();
}

std::optional<internal::RewardAnswer> Link::TakeAnswer(const std::string& batch_id) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, std::chrono::milliseconds(200), [&] { return answers_.contains(batch_id) || lost_; });
  const auto found = answers_.find(batch_id);
  if (found == answers_.end()) return std::nullopt;
  internal::RewardAnswer answer = std::move(found->second);
  answers_.erase(found);
  return answer;
}

bool Link::WaitForMessage(std::unique_lock<std::mutex>& lock) {
  return changed_.wait_for(lock, kHeartbeatInterval, [this] { return !outbox_.empty() || closing_ || lost_; });
}

void Link::WriteLoop() {
  for (;;) {
    internal::WorkerMessage message;
    {
      std::unique_lock lock(mutex_);
      while (!WaitForMessage(lock)) {
        if (jobs_.empty()) continue;
        outbox_.emplace_back().mutable_heartbeat()->set_phase("waiting for a sample to end");
        outbox_.back().set_sequence(++sequence_);
      }
      if (lost_ || (outbox_.empty() && closing_)) return;
      message = std::move(outbox_.front());
      outbox_.pop_front();
    }
    if (!stream_->Write(message)) return;  // the reader notices the end of the stream
  }
}

void LinkScorer::Ask(const job::ScoreQuestion& question) {
  internal::WorkerMessage message;
  internal::RewardQuestion* out = message.mutable_reward();
  out->set_job(job_);
  out->set_step(question.step);
  out->set_batch_id(question.batch_id);
  for (const job::ScoreItem& item : question.items) {
    v1::RewardItem* to = out->add_items();
    to->set_prompt_id(item.prompt_id);
    to->set_completion_index(item.completion_index);
    to->set_prompt_json(item.prompt_json);
    to->set_completion(item.completion);
    to->mutable_completion_tokens()->Add(item.tokens.begin(), item.tokens.end());
    to->mutable_columns()->insert(item.columns.begin(), item.columns.end());
    to->set_truncated(item.truncated);
  }
  link_->Send(std::move(message));
}

std::optional<job::ScoreAnswer> LinkScorer::Wait(const std::string& batch_id, const std::function<bool()>& stop) {
  while (!stop()) {
    const auto said = link_->TakeAnswer(batch_id);
    if (!said) continue;
    job::ScoreAnswer answer;
    if (said->has_error()) answer.error = said->error().message().empty() ? "no scores" : said->error().message();
    for (const v1::RewardScores& scores : said->scores()) {
      answer.scores[scores.reward_name()].assign(scores.values().begin(), scores.values().end());
    }
    return answer;
  }
  return std::nullopt;
}

LinkObserver::LinkObserver(Link* link, const internal::RunJob& run)
    : link_(link), job_(run.job()), attempt_(run.attempt()), state_dir_(run.state_dir()),
      heartbeat_([this] { HeartbeatLoop(); }) {}

LinkObserver::~LinkObserver() {
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  stop_.notify_all();
  heartbeat_.join();
}

internal::WorkerMessage LinkObserver::NewEvent() const {
  internal::WorkerMessage message;
  internal::WorkerEvent* event = message.mutable_event();
  event->set_job(job_);
  event->set_attempt(attempt_);
  event->set_time_unix_nanos(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                 std::chrono::system_clock::now().time_since_epoch())
                                 .count());
  return message;
}

void LinkObserver::OnPhase(const std::string& phase) {
  {
    std::lock_guard lock(mutex_);
    beat_.set_phase(phase);
  }
  auto message = NewEvent();
  message.mutable_event()->set_phase(phase);
  link_->Send(std::move(message));
}

void LinkObserver::OnPlan(int64_t first_step, int64_t total_steps,
                          const std::map<std::string, double>& dataset_stats) {
  auto message = NewEvent();
  auto* plan = message.mutable_event()->mutable_plan();
  plan->set_first_step(first_step);
  plan->set_total_steps(total_steps);
  plan->mutable_dataset_stats()->insert(dataset_stats.begin(), dataset_stats.end());
  link_->Send(std::move(message));
}

void LinkObserver::OnStep(int64_t step, double epoch, const std::map<std::string, double>& values) {
  {
    std::lock_guard lock(mutex_);
    beat_.set_step(step);
    const auto bytes = [&](const char* key) {
      const auto it = values.find(key);
      return it == values.end() ? int64_t{0} : static_cast<int64_t>(it->second);
    };
    beat_.set_allocated_bytes(bytes("memory_allocated_bytes"));
    beat_.set_reserved_bytes(bytes("memory_reserved_bytes"));
    beat_.set_device_used_bytes(bytes("memory_device_used_bytes"));
  }
  auto message = NewEvent();
  auto* point = message.mutable_event()->mutable_step();
  point->set_step(step);
  point->set_epoch(epoch);
  point->mutable_values()->insert(values.begin(), values.end());
  link_->Send(std::move(message));
}

void LinkObserver::OnEval(int64_t step, const std::map<std::string, double>& values) {
  auto message = NewEvent();
  auto* point = message.mutable_event()->mutable_eval();
  point->set_step(step);
  point->mutable_values()->insert(values.begin(), values.end());
  link_->Send(std::move(message));
}

void LinkObserver::OnCheckpoint(int64_t step, const std::string& directory, int64_t bytes) {
  auto message = NewEvent();
  auto* checkpoint = message.mutable_event()->mutable_checkpoint();
  checkpoint->set_step(step);
  checkpoint->set_bytes(bytes);
  // Relative to the job's state directory: paths of this machine do not leave it.
  const bool below = directory.rfind(state_dir_ + "/", 0) == 0;
  checkpoint->set_directory(below ? directory.substr(state_dir_.size() + 1) : directory);
  link_->Send(std::move(message));
  // Older ones go next: the daemon must not be left with one that is gone, whatever happens.
  link_->Flush();
}

void LinkObserver::OnWarning(const std::string& code, const std::string& text) {
  auto message = NewEvent();
  message.mutable_event()->mutable_warning()->set_code(code);
  message.mutable_event()->mutable_warning()->set_text(text);
  link_->Send(std::move(message));
}

void LinkObserver::OnLog(const std::string& text) {
  auto message = NewEvent();
  message.mutable_event()->set_log(text);
  link_->Send(std::move(message));
}

void LinkObserver::OnSample(const job::SampleOutput& sample) {
  auto message = NewEvent();
  auto* out = message.mutable_event()->mutable_sample();
  out->set_step(sample.step);
  out->set_prompt(sample.prompt);
  out->set_completion(sample.completion);
  out->set_reward(sample.reward);
  out->set_advantage(sample.advantage);
  out->set_prompt_id(sample.prompt_id);
  out->set_completion_index(sample.completion_index);
  out->mutable_rewards()->insert(sample.rewards.begin(), sample.rewards.end());
  out->set_truncated(sample.truncated);
  link_->Send(std::move(message));
}

void LinkObserver::Finished(const job::RunResult& result) {
  internal::WorkerMessage message;
  internal::WorkerFinished* finished = message.mutable_finished();
  finished->set_job(job_);
  finished->set_attempt(attempt_);
  finished->set_outcome(static_cast<int32_t>(result.outcome));
  finished->set_reason(result.reason);
  finished->set_message(result.message);
  const bool below = result.adapter_dir.rfind(state_dir_ + "/", 0) == 0;
  finished->set_adapter_dir(below ? result.adapter_dir.substr(state_dir_.size() + 1)
                                  : result.adapter_dir);
  finished->set_last_step(result.last_step);
  finished->mutable_final_metrics()->insert(result.final_metrics.begin(), result.final_metrics.end());
  link_->Send(std::move(message));
}

// A sign of life every two seconds even when one step takes minutes.
void LinkObserver::HeartbeatLoop() {
  std::unique_lock lock(mutex_);
  while (!stop_.wait_for(lock, kHeartbeatInterval, [this] { return stopped_; })) {
    internal::WorkerMessage message;
    *message.mutable_heartbeat() = beat_;
    lock.unlock();
    link_->Send(std::move(message));
    lock.lock();
  }
}

}  // namespace finetuned::worker
