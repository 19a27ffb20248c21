#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/time/time.h"

namespace finetuned::api {

// Who may send its message now: the memory of all messages that are being sent or answered stays below a bound.
//
// gRPC reads a call's message before anybody can look at the call, and its own quota ends streams too late (docs/
// reliability.md). So the message of a call is asked for only when there is room for the largest one: twice its size,
// since its bytes and what is parsed from them are there at the same time. Once it has arrived its own size counts,
// until the call ends. Calls wait by connection: next is one of the connection that sends the fewest messages now,
// among those the one that waited longest for its turn. A message that takes longer than `patience` while others wait
// is given up.
//
//   Enter -> start() -> Arrived -> Leave        Leave at any point. Thread safe; start and give_up run without a lock.
class Admission {
 public:
  using Call = const void*;

  struct Options {
    int64_t total_bytes = 0;
    int64_t message_bytes = 0;              // the largest message; one is let in even if it is larger than the total
    absl::Duration patience = absl::Seconds(1);
  };

  explicit Admission(const Options& options);
  ~Admission();  // REQUIRES: no call is left

  // `start` is called once, here or later on another thread; `give_up` when the message is too slow, then Arrived or
  // Leave is still expected.
  void Enter(Call call, const std::string& connection, std::function<void()> start, std::function<void()> give_up);
  // A call with many messages: room for the largest is kept until Leave. False, and nothing is kept: there is none, or
  // such calls have half of all room already.
  bool EnterStream(Call call);
  // The message is there, `bytes` long.
  void Arrived(Call call, int64_t bytes);
  // The call ended; nothing happens if it never entered.
  void Leave(Call call);

  int64_t held_bytes() const;
  int64_t waiting() const;

 private:
  enum class State { kWaiting, kSending, kArrived, kStream };
  struct Entry {
    State state = State::kWaiting;
    std::string connection;
    int64_t bytes = 0;
    absl::Time since;    // of sending
    bool given_up = false;
    std::function<void()> start, give_up;
  };
  struct Connection {
    std::deque<Call> waiting;
    int64_t sending = 0;
    int64_t turn = 0;  // when a call of it was let in last; 0: not yet
  };
  using Calls = std::vector<std::function<void()>>;

  // Lets in whom there is room for; the caller runs what comes back, without the lock.
  Calls LetIn();
  void Settle(Entry& entry, int64_t bytes);  // gives back what was held for the message
  void Forget(const std::string& connection);
  void Watch();

  const Options options_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  int64_t held_ = 0, held_by_streams_ = 0, waiting_ = 0, turns_ = 0;
  std::unordered_map<Call, Entry> calls_;
  std::map<std::string, Connection> connections_;
  std::thread watcher_;
};

}  // namespace finetuned::api
