#include "server/jobs/subscription.h"

#include "server/queue/state_machine.h"

namespace finetuned::jobs {

Subscription::Subscription(const store::Store* store, EventBus* bus, std::string uid, int64_t after)
    : store_(store), bus_(bus), uid_(std::move(uid)), next_(after + 1) {}

Subscription::~Subscription() { bus_->Remove(uid_, this); }

bool Subscription::FinishedLocked() const { return closed_ || (terminal_ && next_ > published_); }

bool Subscription::finished() const {
  std::lock_guard lock(mutex_);
  return FinishedLocked();
}

absl::Status Subscription::status() const {
  std::lock_guard lock(mutex_);
  return status_;
}

int64_t Subscription::next_sequence() const {
  std::lock_guard lock(mutex_);
  return next_;
}

void Subscription::OnReady(std::function<void()> ready) {
  {
    std::lock_guard lock(mutex_);
    if (ready == nullptr || (next_ > published_ && !FinishedLocked())) {
      ready_ = std::move(ready);
      return;
    }
  }
  ready();
}

void Subscription::Push(const v1::Event& event) {
  std::function<void()> ready;
  {
    std::lock_guard lock(mutex_);
    if (event.sequence() <= published_) return;
    published_ = event.sequence();
    if (event.has_state_changed()) terminal_ = queue::IsTerminal(event.state_changed().to());
    buffer_bytes_ += event.ByteSizeLong();
    buffer_.push_back(event);
    if (buffer_bytes_ > EventBus::kBufferBytes) {
      // Too far behind: the log has it all.
      buffer_.clear();
      buffer_bytes_ = 0;
    }
    ready.swap(ready_);
  }
  if (ready) ready();
}

void Subscription::Close(absl::Status status) {
  std::function<void()> ready;
  {
    std::lock_guard lock(mutex_);
    if (closed_) return;
    closed_ = true;
    status_ = std::move(status);
    ready.swap(ready_);
  }
  if (ready) ready();
}

absl::StatusOr<std::vector<v1::Event>> Subscription::Pull(int limit) {
  std::vector<v1::Event> events;
  int64_t after = 0, last = 0;
  {
    std::lock_guard lock(mutex_);
    while (!buffer_.empty() && static_cast<int>(events.size()) < limit) {
      if (buffer_.front().sequence() > next_) break;  // what is between is in the log only
      buffer_bytes_ -= buffer_.front().ByteSizeLong();
      if (buffer_.front().sequence() == next_) {
        events.push_back(std::move(buffer_.front()));
        ++next_;
      }
      buffer_.pop_front();
    }
    if (!events.empty() || next_ > published_) return events;
    after = next_ - 1;
    last = published_;
  }
  absl::StatusOr<std::vector<v1::Event>> read = store_->ReadEvents(uid_, after, limit);
  if (!read.ok()) return read;
  // Events are on disk a moment before they are published; who pulls must not see them earlier.
  while (!read->empty() && read->back().sequence() > last) read->pop_back();
  if (!read->empty()) {
    std::lock_guard lock(mutex_);
    next_ = read->back().sequence() + 1;
  }
  return read;
}

absl::StatusOr<std::shared_ptr<Subscription>> EventBus::Subscribe(const std::string& uid,
                                                                  const std::string& name, int64_t after) {
  std::shared_ptr<Subscription> subscription(new Subscription(store_, this, uid, after));
  {
    std::lock_guard lock(mutex_);
    by_uid_[uid][subscription.get()] = subscription;
  }
  // Read after registering: what is committed later is published to it.
  const auto record = store_->GetJob(name);
  if (!record.ok()) return record.status();
  std::lock_guard lock(subscription->mutex_);
  if (record->last_sequence >= subscription->published_) {
    subscription->published_ = record->last_sequence;
    subscription->terminal_ = queue::IsTerminal(record->job.state());
  }
  if (after < 0) subscription->next_ = record->last_sequence + 1;
  return subscription;
}

std::vector<std::shared_ptr<Subscription>> EventBus::Of(const std::string& uid) const {
  std::vector<std::shared_ptr<Subscription>> found;
  std::lock_guard lock(mutex_);
  const auto of = by_uid_.find(uid);
  if (of == by_uid_.end()) return found;
  for (const auto& [key, weak] : of->second) {
    if (auto subscription = weak.lock()) found.push_back(std::move(subscription));
  }
  return found;
}

void EventBus::Publish(const std::string& uid, const v1::Event& event) {
  for (const auto& subscription : Of(uid)) subscription->Push(event);
}

void EventBus::Close(const std::string& uid, absl::Status status) {
  for (const auto& subscription : Of(uid)) subscription->Close(status);
}

void EventBus::CloseAll(absl::Status status) {
  std::vector<std::string> uids;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [uid, subscriptions] : by_uid_) uids.push_back(uid);
  }
  for (const std::string& uid : uids) Close(uid, status);
}

size_t EventBus::subscriptions() const {
  std::lock_guard lock(mutex_);
  size_t count = 0;
  for (const auto& [uid, subscriptions] : by_uid_) count += subscriptions.size();
  return count;
}

void EventBus::Remove(const std::string& uid, Subscription* subscription) {
  std::lock_guard lock(mutex_);
  const auto found = by_uid_.find(uid);
  if (found == by_uid_.end()) return;
  found->second.erase(subscription);
  if (found->second.empty()) by_uid_.erase(found);
}

}  // namespace finetuned::jobs
