#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "clients/cli/client.h"
#include "clients/cli/term.h"

namespace finetuned::cli {

// What the live view knows of a job: fed event by event, drawn as text. No I/O.
class WatchView {
 public:
  explicit WatchView(const v1::Job& job);
  void Apply(const v1::Event& event);
  // Lines of at most `width` columns, without a trailing newline each.
  std::vector<std::string> Draw(int width, const Style& style) const;
  // A line for the scrolling log above the view, or empty: warnings, checkpoints, evaluations.
  std::string NoteFor(const v1::Event& event, const Style& style) const;

  v1::JobState state() const { return state_; }
  double first_loss() const { return losses_.empty() ? 0 : losses_.front(); }
  double last_loss() const { return losses_.empty() ? 0 : losses_.back(); }

 private:
  double Latest(const std::string& key) const;
  double SecondsPerStep() const;

  v1::Job job_;
  v1::JobState state_;
  v1::StateReason reason_;
  std::string message_;
  std::string phase_;
  int32_t attempt_ = 0;
  int64_t step_ = 0, total_steps_ = 0;
  double epoch_ = 0;
  std::map<std::string, double> latest_;
  std::vector<double> losses_;
  std::vector<double> step_times_;
  double eval_loss_ = -1;
  double start_time_ = 0, last_time_ = 0;
};

enum class WatchOutput { kLive, kJson, kText };  // a view, an event a line as JSON, or as text

// Follows a job until its end, reconnecting with the resume token. kOk when it succeeded (or SIGINT
// detached from it: kInterrupted), kFailed when it failed or was cancelled.
// `type`: only this kind of event ("metrics"), and the end; empty: all.
ExitCode WatchJob(const Client& client, const std::string& name, WatchOutput output, bool from_now,
                  const std::string& type = "");

}  // namespace finetuned::cli
