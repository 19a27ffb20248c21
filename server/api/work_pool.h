#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace finetuned::api {

// Threads for work that may block (disk, model files): gRPC's own threads never do. Tasks run in the
// order they came, as many at once as there are threads. They must not throw.
class WorkPool {
 public:
  WorkPool(int threads, size_t max_queued);
  // Runs what is queued, then ends.
  ~WorkPool();
  // False: the queue is full or the pool is closing; the task is not taken.
  [[nodiscard]] bool Submit(std::function<void()> task);
  // The same without a limit: for the next part of work that was admitted before. A closing pool runs
  // it on the caller's thread.
  void Continue(std::function<void()> task);
  // No new tasks; waits for those queued. Idempotent.
  void Close();

 private:
  void Loop();

  const size_t max_queued_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;
  bool closing_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace finetuned::api
