#include "clients/cli/watch.h"

#include <google/protobuf/util/json_util.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <iostream>
#include <thread>

#include "absl/strings/str_cat.h"

namespace finetuned::cli {
namespace {

std::atomic<bool> g_interrupted{false};

void OnInterrupt(int) { g_interrupted = true; }

int TerminalWidth() {
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20) return size.ws_col;
  return 80;
}

// Draws a block of lines over the one drawn before.
class Screen {
 public:
  void Redraw(const std::vector<std::string>& lines, const std::string& note) {
    std::string out;
    if (drawn_ > 0) absl::StrAppend(&out, "\033[", drawn_, "A\r\033[J");
    if (!note.empty()) absl::StrAppend(&out, note, "\n");
    for (const std::string& line : lines) absl::StrAppend(&out, line, "\n");
    drawn_ = static_cast<int>(lines.size());
    std::cout << out << std::flush;
  }

 private:
  int drawn_ = 0;
};

void PrintJson(const v1::Event& event) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string json;
  if (google::protobuf::util::MessageToJsonString(event, &json, options).ok()) {
    std::cout << json << std::endl;
  }
}

// Cancels the call soon after SIGINT: a blocked Read returns only then.
class InterruptGuard {
 public:
  explicit InterruptGuard(grpc::ClientContext* context)
      : thread_([this, context] {
          while (!done_) {
            if (g_interrupted) context->TryCancel();
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
  Watcher(const Client& client, const v1::Job& job, WatchOutput output)
      : client_(client), name_(job.name()), output_(output), view_(job) {
    style_.color = isatty(STDOUT_FILENO);
  }

  ExitCode Run(bool from_now) {
    double backoff = 0.2;
    for (;;) {
      const grpc::Status status = ReadStream(from_now, &backoff);
      if (g_interrupted) return Detached();
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
      if (event.payload_case() != v1::Event::kHeartbeat) PrintJson(event);
      return;
    }
    screen_.Redraw(view_.Draw(TerminalWidth(), style_), view_.NoteFor(event, style_));
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
  WatchView view_;
  Style style_;
  Screen screen_;
  std::string token_;
  double waited_ = 0;
};

}  // namespace

ExitCode WatchJob(const Client& client, const std::string& name, WatchOutput output, bool from_now) {
  v1::GetJobRequest request;
  request.set_name(name);
  v1::Job job;
  auto context = client.Context();
  Check(client.jobs->GetJob(context.get(), request, &job), client);
  std::signal(SIGINT, OnInterrupt);
  const ExitCode code = Watcher(client, job, output).Run(from_now);
  std::signal(SIGINT, SIG_DFL);
  return code;
}

}  // namespace finetuned::cli
