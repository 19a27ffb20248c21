#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "finetuned/v1/events.pb.h"
#include "server/store/store.h"

namespace finetuned::jobs {

class EventBus;

// One watcher's view of a job's events: exactly those after a given sequence, in order. Events that are
// published while it is read come from a bounded buffer; a watcher that fell behind reads the log. The
// publisher never waits. Pull is called by one thread at a time.
class Subscription : public std::enable_shared_from_this<Subscription> {
 public:
  ~Subscription();

  // The next events, at most `limit`, without waiting; empty when there is none now. May read the disk.
  absl::StatusOr<std::vector<v1::Event>> Pull(int limit);
  // Calls `ready` once, on another thread or this one, as soon as Pull has something to give or the
  // subscription is over. It must not block and not call Pull itself. Null: forget.
  void OnReady(std::function<void()> ready);
  // The job has ended and every event has been pulled, or the daemon closed the subscription (status()).
  bool finished() const;
  // OK, NOT_FOUND (job deleted), UNAVAILABLE (daemon leaves).
  absl::Status status() const;
  int64_t next_sequence() const;

 private:
  friend class EventBus;
  Subscription(const store::Store* store, EventBus* bus, std::string uid, int64_t after);
  void Push(const v1::Event& event);   // never blocks
  void Close(absl::Status status);
  bool FinishedLocked() const;

  const store::Store* const store_;
  EventBus* const bus_;
  const std::string uid_;
  mutable std::mutex mutex_;
  int64_t next_;                       // guarded by mutex_, like all below
  int64_t published_ = 0;              // newest sequence known to be stored
  bool terminal_ = false;              // the job's state after it
  bool closed_ = false;
  absl::Status status_;
  std::deque<v1::Event> buffer_;
  size_t buffer_bytes_ = 0;
  std::function<void()> ready_;
};

// Hands events that are on disk to the subscriptions of their job.
class EventBus {
 public:
  static constexpr size_t kBufferBytes = 1 << 20;  // per subscription

  explicit EventBus(const store::Store* store) : store_(store) {}
  // Events of `uid` with sequence > `after`; after -1: those still to come.
  absl::StatusOr<std::shared_ptr<Subscription>> Subscribe(const std::string& uid, const std::string& name,
                                                          int64_t after);
  // REQUIRES: the event is durable, and that before it was published.
  void Publish(const std::string& uid, const v1::Event& event);
  void Close(const std::string& uid, absl::Status status);
  void CloseAll(absl::Status status);
  size_t subscriptions() const;

 private:
  friend class Subscription;
  void Remove(const std::string& uid, Subscription* subscription);
  std::vector<std::shared_ptr<Subscription>> Of(const std::string& uid) const;

  const store::Store* const store_;
  mutable std::mutex mutex_;
  std::map<std::string, std::map<Subscription*, std::weak_ptr<Subscription>>> by_uid_;
};

}  // namespace finetuned::jobs
