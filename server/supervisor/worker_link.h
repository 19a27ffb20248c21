#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "absl/time/time.h"
#include "finetuned/internal/v1/worker.grpc.pb.h"

namespace finetuned::supervisor {

// The daemon's end of the stream. Takes one stream at a time: that of the worker which knows the token.
// Thread-safe.
class WorkerLink : public internal::v1::WorkerLink::CallbackService {
 public:
  using OnHello = std::function<void(const internal::v1::WorkerHello&)>;
  using OnMessage = std::function<void(internal::v1::WorkerMessage)>;
  // Called on gRPC's threads, one call at a time per stream; must not block.
  WorkerLink(OnHello on_hello, OnMessage on_message);

  // From now on a stream that says hello with this token is accepted, once.
  void Expect(std::string token);
  // Nothing is sent when no worker is attached.
  void Send(internal::v1::WorkerCommand command);
  // Waits until the stream of a dead worker has been read to its end.
  void WaitDetached(absl::Duration limit);

  grpc::ServerBidiReactor<internal::v1::WorkerMessage, internal::v1::WorkerCommand>* Attach(
      grpc::CallbackServerContext* context) override;

 private:
  class Stream;
  // True when the token is the expected one.
  bool Accept(Stream* stream, const internal::v1::WorkerHello& hello);
  void Detach(Stream* stream);

  const OnHello on_hello_;
  const OnMessage on_message_;
  std::mutex mutex_;
  std::condition_variable detached_;
  std::string token_;           // guarded by mutex_; empty: nobody is expected
  Stream* stream_ = nullptr;    // guarded by mutex_
};

}  // namespace finetuned::supervisor
