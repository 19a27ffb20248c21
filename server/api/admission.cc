#include "server/api/admission.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"

namespace finetuned::api {

Admission::Admission(const Options& options) : options_(options), watcher_([this] { Watch(); }) {}

Admission::~Admission() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  watcher_.join();
}

void Admission::Enter(Call call, const std::string& connection, std::function<void()> start,
                      std::function<void()> give_up) {
  Calls starts;
  {
    std::lock_guard lock(mutex_);
    Entry& entry = calls_[call];
    entry.connection = connection;
    entry.start = std::move(start);
    entry.give_up = std::move(give_up);
    connections_[connection].waiting.push_back(call);
    ++waiting_;
    starts = LetIn();
  }
  wake_.notify_all();
  for (const auto& run : starts) run();
}

bool Admission::EnterStream(Call call) {
  std::lock_guard lock(mutex_);
  const int64_t wanted = 2 * options_.message_bytes;
  const bool room = held_ + wanted <= options_.total_bytes && held_by_streams_ + wanted <= options_.total_bytes / 2;
  if (!room && held_ > 0) return false;
  Entry& entry = calls_[call];
  entry.state = State::kStream;
  entry.bytes = wanted;
  held_ += wanted;
  held_by_streams_ += wanted;
  return true;
}

Admission::Calls Admission::LetIn() {
  Calls starts;
  const int64_t wanted = 2 * options_.message_bytes;
  while (waiting_ > 0 && (held_ == 0 || held_ + wanted <= options_.total_bytes)) {
    Connection* next = nullptr;
    for (auto& [name, connection] : connections_) {
      if (connection.waiting.empty()) continue;
      if (next == nullptr || std::pair(connection.sending, connection.turn) < std::pair(next->sending, next->turn)) {
        next = &connection;
      }
    }
    Entry& entry = calls_.at(next->waiting.front());
    next->waiting.pop_front();
    --waiting_;
    ++next->sending;
    next->turn = ++turns_;
    entry.state = State::kSending;
    entry.since = absl::Now();
    entry.bytes = wanted;
    held_ += wanted;
    starts.push_back(std::move(entry.start));
  }
  return starts;
}

void Admission::Settle(Entry& entry, int64_t bytes) {
  if (entry.state == State::kSending) --connections_[entry.connection].sending;
  if (entry.state == State::kStream) held_by_streams_ -= entry.bytes;
  held_ += bytes - entry.bytes;
  entry.bytes = bytes;
  entry.state = State::kArrived;
  Forget(entry.connection);
}

void Admission::Forget(const std::string& connection) {
  const auto found = connections_.find(connection);
  if (found != connections_.end() && found->second.waiting.empty() && found->second.sending == 0) {
    connections_.erase(found);
  }
}

void Admission::Arrived(Call call, int64_t bytes) {
  Calls starts;
  {
    std::lock_guard lock(mutex_);
    Settle(calls_.at(call), 2 * bytes);
    starts = LetIn();
  }
  wake_.notify_all();
  for (const auto& run : starts) run();
}

void Admission::Leave(Call call) {
  Calls starts;
  {
    std::lock_guard lock(mutex_);
    const auto found = calls_.find(call);
    if (found == calls_.end()) return;
    if (found->second.state == State::kWaiting) {
      std::deque<Call>& waiting = connections_[found->second.connection].waiting;
      waiting.erase(std::find(waiting.begin(), waiting.end(), call));
      --waiting_;
    }
    Settle(found->second, 0);
    calls_.erase(found);
    starts = LetIn();
  }
  wake_.notify_all();
  for (const auto& run : starts) run();
}

void Admission::Watch() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    absl::Time oldest = absl::InfiniteFuture();
    Calls late;
    const absl::Time now = absl::Now();
    for (auto& [call, entry] : calls_) {
      if (waiting_ == 0) break;
      if (entry.state != State::kSending || entry.given_up) continue;
      if (entry.since + options_.patience <= now) {
        entry.given_up = true;
        late.push_back(entry.give_up);
      } else {
        oldest = std::min(oldest, entry.since);
      }
    }
    if (!late.empty()) {
      lock.unlock();
      for (const auto& give_up : late) give_up();
      lock.lock();
      continue;
    }
    if (oldest == absl::InfiniteFuture()) {
      wake_.wait(lock);
    } else {
      wake_.wait_until(lock, absl::ToChronoTime(oldest + options_.patience));
    }
  }
}

int64_t Admission::held_bytes() const {
  std::lock_guard lock(mutex_);
  return held_;
}

int64_t Admission::waiting() const {
  std::lock_guard lock(mutex_);
  return waiting_;
}

}  // namespace finetuned::api
