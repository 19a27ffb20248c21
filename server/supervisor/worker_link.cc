#include "server/supervisor/worker_link.h"

#include <chrono>
#include <deque>

#include <openssl/crypto.h>

namespace finetuned::supervisor {

using internal::v1::WorkerCommand;
using internal::v1::WorkerMessage;

namespace {

// Reading pauses when this many messages wait to become durable: a daemon with a full disk does not fill
// its memory, and the worker keeps the rest.
constexpr int64_t kMostUnacknowledged = 8192;

}  // namespace

// One attached worker. Deletes itself when gRPC is done with it.
class WorkerLink::Stream : public grpc::ServerBidiReactor<WorkerMessage, WorkerCommand> {
 public:
  explicit Stream(WorkerLink* link) : link_(link) { StartRead(&incoming_); }

  void Send(WorkerCommand command) {
    std::lock_guard lock(mutex_);
    acknowledged_ = std::max(acknowledged_, command.acknowledged());
    const bool only_acknowledges = command.command_case() == WorkerCommand::COMMAND_NOT_SET;
    // The one being written is outbox_.front(): later acknowledgements can still be merged.
    if (only_acknowledges && outbox_.size() > 1) {
      outbox_.back().set_acknowledged(acknowledged_);
    } else {
      outbox_.push_back(std::move(command));
      if (outbox_.size() == 1) StartWrite(&outbox_.front());
    }
    if (read_paused_ && received_ - acknowledged_ < kMostUnacknowledged && !finished_) {
      read_paused_ = false;
      StartRead(&incoming_);
    }
  }

  void OnReadDone(bool ok) override {
    if (!ok) return End(grpc::Status::OK);
    if (!accepted_) {
      if (!incoming_.has_hello() || !link_->Accept(this, incoming_.hello())) {
        return End({grpc::StatusCode::UNAUTHENTICATED, "not the worker this daemon started"});
      }
      accepted_ = true;
      link_->on_hello_(incoming_.hello());
    } else {
      link_->on_message_(std::move(incoming_));
    }
    std::lock_guard lock(mutex_);
    ++received_;
    incoming_.Clear();
    read_paused_ = received_ - acknowledged_ >= kMostUnacknowledged;
    if (!read_paused_ && !finished_) StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override {
    std::lock_guard lock(mutex_);
    outbox_.pop_front();
    if (!ok) outbox_.clear();
    if (!outbox_.empty() && !finished_) StartWrite(&outbox_.front());
  }

  void OnCancel() override { End(grpc::Status::CANCELLED); }

  void OnDone() override {
    link_->Detach(this);
    delete this;
  }

 private:
  void End(const grpc::Status& status) {
    std::lock_guard lock(mutex_);
    if (finished_) return;
    finished_ = true;
    Finish(status);
  }

  WorkerLink* const link_;
  bool accepted_ = false;  // touched by reads only
  WorkerMessage incoming_;
  std::mutex mutex_;
  std::deque<WorkerCommand> outbox_;  // guarded by mutex_, like all below
  int64_t received_ = 0;
  int64_t acknowledged_ = 0;
  bool read_paused_ = false;
  bool finished_ = false;
};

WorkerLink::WorkerLink(OnHello on_hello, OnMessage on_message)
    : on_hello_(std::move(on_hello)), on_message_(std::move(on_message)) {}

void WorkerLink::Expect(std::string token) {
  std::lock_guard lock(mutex_);
  token_ = std::move(token);
}

bool WorkerLink::Accept(Stream* stream, const internal::v1::WorkerHello& hello) {
  std::lock_guard lock(mutex_);
  const bool right = !token_.empty() && hello.token().size() == token_.size() &&
                     CRYPTO_memcmp(hello.token().data(), token_.data(), token_.size()) == 0;
  if (!right || stream_ != nullptr) return false;
  token_.clear();
  stream_ = stream;
  return true;
}

void WorkerLink::Detach(Stream* stream) {
  std::lock_guard lock(mutex_);
  if (stream_ == stream) stream_ = nullptr;
  detached_.notify_all();
}

void WorkerLink::Send(WorkerCommand command) {
  std::lock_guard lock(mutex_);
  if (stream_ != nullptr) stream_->Send(std::move(command));
}

void WorkerLink::WaitDetached(absl::Duration limit) {
  std::unique_lock lock(mutex_);
  detached_.wait_for(lock, absl::ToChronoMilliseconds(limit), [this] { return stream_ == nullptr; });
}

grpc::ServerBidiReactor<WorkerMessage, WorkerCommand>* WorkerLink::Attach(grpc::CallbackServerContext*) {
  return new Stream(this);
}

}  // namespace finetuned::supervisor
