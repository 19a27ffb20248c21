#include "clients/cli/watch.h"

#include <atomic>
#include <chrono>
#include <iostream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "clients/cli/job_text.h"
#include "clients/cli/terminal.h"

namespace finetuned::cli {
namespace {

// Cancels the call soon after SIGINT: a blocked Read returns only then.
class InterruptGuard {
 public:
  explicit InterruptGuard(grpc::ClientContext* context)
      : thread_([this, context] {
          while (!done_) {
            if (InterruptFlag::Raised()) context->TryCancel();
            std::this_thread::sleep_for(std::chrono::milliseconds(100));
          }
        }) {}
  ~InterruptGuard() {
    done_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> done_{false};
  std::thread thread_;
};

class Watcher {
 public:
  Watcher(const Client& client, const v1::Job& job, WatchOutput output, const std::string& type)
      : client_(client), name_(job.name()), output_(output), type_(type), view_(job), style_(StdoutStyle()) {}

  ExitCode Run(bool from_now) {
    double backoff = 0.2;
    for (;;) {
      const grpc::Status status = ReadStream(from_now, &backoff);
      if (InterruptFlag::Raised()) return Detached();
      if (status.ok()) return Ended();
      const bool transient = status.error_code() == grpc::StatusCode::UNAVAILABLE ||
                             status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED;
      if (!transient || waited_ > 300) Check(status, client_);
      std::this_thread::sleep_for(std::chrono::milliseconds(static_cast<int64_t>(backoff * 1000)));
      waited_ += backoff;
      backoff = std::min(5.0, backoff * 1.6);
    }
  }

 private:
  grpc::Status ReadStream(bool from_now, double* backoff) {
    v1::WatchJobRequest request;
    request.set_name(name_);
    request.set_resume_token(token_);
    request.set_from_now(from_now && token_.empty());
    if (!type_.empty()) request.add_types(type_);
    auto context = client_.Context(0);
    InterruptGuard guard(context.get());
    auto reader = client_.jobs->WatchJob(context.get(), request);
    v1::WatchJobResponse response;
    while (reader->Read(&response)) {
      *backoff = 0.2;
      waited_ = 0;
      if (!response.resume_token().empty()) token_ = response.resume_token();
      Show(response.event());
    }
    return reader->Finish();
  }

  void Show(const v1::Event& event) {
    view_.Apply(event);
    if (output_ == WatchOutput::kJson) {
      if (event.payload_case() != v1::Event::kHeartbeat) std::cout << JsonLine(event) << std::endl;
      return;
    }
    if (output_ == WatchOutput::kText) {
      if (event.payload_case() != v1::Event::kHeartbeat) std::cout << EventLine(event, style_) << std::endl;
      return;
    }
    screen_.Redraw(view_.Draw(GetTerminalSize().columns, style_), view_.NoteFor(event, style_));
  }

  ExitCode Detached() const {
    if (output_ == WatchOutput::kLive) {
      std::cout << "Detached; the job goes on. Watch it again: finetune watch " << ShortName(name_) << "\n";
    }
    return kInterrupted;
  }

  ExitCode Ended() const {
    v1::Job job;
    v1::GetJobRequest request;
    request.set_name(name_);
    auto context = client_.Context();
    Check(client_.jobs->GetJob(context.get(), request, &job), client_);
    if (output_ == WatchOutput::kLive) {
      if (job.state() == v1::SUCCEEDED) {
        std::cout << style_.Green("Done") << ": " << job.output_adapter() << "  loss " << view_.first_loss()
                  << " -> " << view_.last_loss() << "\nFetch it: finetune pull " << ShortName(name_)
                  << " --to DIR\n";
      } else {
        std::cout << style_.Red(StateName(job.state())) << " (" << ReasonName(job.state_reason())
                  << "): " << Printable(job.state_message()) << "\n";
      }
    }
    return job.state() == v1::SUCCEEDED ? kOk : kFailed;
  }

  const Client& client_;
  std::string name_;
  WatchOutput output_;
  const std::string type_;
  WatchView view_;
  Style style_;
  Screen screen_;
  std::string token_;
  double waited_ = 0;
};

}  // namespace

ExitCode WatchJob(const Client& client, const std::string& name, WatchOutput output, bool from_now,
                  const std::string& type) {
  v1::GetJobRequest request;
  request.set_name(name);
  v1::Job job;
  auto context = client.Context();
  Check(client.jobs->GetJob(context.get(), request, &job), client);
  const InterruptFlag interrupts;
  return Watcher(client, job, output, type).Run(from_now);
}

}  // namespace finetuned::cli
