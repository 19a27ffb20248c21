#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cli/job_text.h"
#include "clients/cli/watch.h"

namespace finetuned::cli {
namespace {

double Seconds(const google::protobuf::Timestamp& t) {
  return static_cast<double>(t.seconds()) + t.nanos() * 1e-9;
}

}  // namespace

WatchView::WatchView(const v1::Job& job)
    : job_(job), state_(job.state()), reason_(job.state_reason()), message_(job.state_message()),
      phase_(job.progress().phase()), total_steps_(job.progress().total_steps()) {}

void WatchView::Apply(const v1::Event& event) {
  last_time_ = Seconds(event.time());
  if (event.attempt() != 0) attempt_ = event.attempt();
  switch (event.payload_case()) {
    case v1::Event::kStateChanged:
      state_ = event.state_changed().to();
      reason_ = event.state_changed().reason();
      message_ = event.state_changed().message();
      if (state_ == v1::PREPARING || state_ == v1::RUNNING) {
        if (start_time_ == 0) start_time_ = last_time_;
      }
      break;
    case v1::Event::kPlanned:
      total_steps_ = event.planned().total_steps();
      step_ = event.planned().first_step();
      step_times_.clear();
      break;
    case v1::Event::kMetrics: {
      const v1::MetricPoint& m = event.metrics();
      step_ = m.step();
      epoch_ = m.epoch();
      for (const auto& [key, value] : m.values()) latest_[key] = value;
      if (const auto it = m.values().find("loss"); it != m.values().end()) losses_.push_back(it->second);
      if (const auto it = m.values().find("step_time"); it != m.values().end()) {
        step_times_.push_back(it->second);
      }
      break;
    }
    case v1::Event::kEval:
      if (const auto it = event.eval().values().find("eval_loss"); it != event.eval().values().end()) {
        eval_loss_ = it->second;
      }
      break;
    default:
      break;
  }
}

double WatchView::Latest(const std::string& key) const {
  const auto it = latest_.find(key);
  return it == latest_.end() ? std::nan("") : it->second;
}

double WatchView::SecondsPerStep() const {
  const size_t n = std::min<size_t>(step_times_.size(), 50);
  double sum = 0;
  for (size_t i = step_times_.size() - n; i < step_times_.size(); ++i) sum += step_times_[i];
  return n == 0 ? std::nan("") : sum / static_cast<double>(n);
}

std::vector<std::string> WatchView::Draw(int width, const Style& style) const {
  std::vector<std::string> lines;
  std::string head = absl::StrCat(style.Bold(ShortName(job_.name())), "  ", absl::AsciiStrToUpper(MethodName(job_.spec())), "  ",
                                  job_.spec().base_model(), "  ", ColoredState(state_, style));
  if (attempt_ > 1) absl::StrAppend(&head, "  attempt ", attempt_);
  if (state_ == v1::QUEUED || state_ == v1::PAUSED || IsTerminal(state_)) {
    if (!message_.empty()) absl::StrAppend(&head, "  ", style.Dim(Printable(message_)));
  }
  lines.push_back(head);
  if (total_steps_ > 0) {
    const double done = static_cast<double>(step_) / static_cast<double>(total_steps_);
    lines.push_back(absl::StrFormat("%s %d/%d steps %5.1f%%  epoch %.2f",
                                    ProgressBar(done, std::clamp(width - 48, 10, 40)), step_,
                                    total_steps_, 100 * done, epoch_));
  }
  if (!losses_.empty()) {
    std::string loss = absl::StrFormat("loss %-8.4f %s  first %.4f  best %.4f", losses_.back(),
                                       style.Cyan(Sparkline(losses_, std::clamp(width - 60, 10, 40))),
                                       losses_.front(),
                                       *std::min_element(losses_.begin(), losses_.end()));
    if (eval_loss_ >= 0) absl::StrAppendFormat(&loss, "  held-out %.4f", eval_loss_);
    lines.push_back(loss);
    std::string speed = absl::StrFormat("%s tokens/s  lr %.2e  grad norm %.3f", FormatCount(Latest("tokens_per_second")),
                                        Latest("learning_rate"), Latest("grad_norm"));
    for (const auto& [key, label] : {std::pair{"mean_token_accuracy", "accuracy"}, {"rewards/margins", "margin"},
                                     {"rewards/accuracies", "pairs right"}, {"kl", "kl"}}) {
      if (std::isfinite(Latest(key))) absl::StrAppendFormat(&speed, "  %s %.3f", label, Latest(key));
    }
    lines.push_back(speed);
    std::string memory = "memory ";
    const double peak = Latest("memory_peak_bytes");
    absl::StrAppend(&memory, std::isfinite(peak) ? FormatBytes(peak) + " peak" : "-");
    if (job_.memory().total_bytes() > 0) {
      absl::StrAppend(&memory, " of ", FormatBytes(static_cast<double>(job_.memory().total_bytes())),
                      " planned");
    }
    const double eta = SecondsPerStep() * static_cast<double>(std::max<int64_t>(0, total_steps_ - step_));
    absl::StrAppend(&memory, "  elapsed ", FormatDuration(last_time_ - start_time_));
    if (!IsTerminal(state_)) absl::StrAppend(&memory, "  ETA ", FormatDuration(eta));
    lines.push_back(memory);
  }
  for (std::string& line : lines) line = Clip(line, width);
  return lines;
}

std::string WatchView::NoteFor(const v1::Event& event, const Style& style) const {
  switch (event.payload_case()) {
    case v1::Event::kWarning:
      return style.Yellow(absl::StrCat("warning ", event.warning().code(), ": ")) +
             Printable(event.warning().text());
    case v1::Event::kCheckpoint:
      return style.Dim(absl::StrFormat("checkpoint at step %d (%s)", event.checkpoint().step(),
                                       FormatBytes(static_cast<double>(event.checkpoint().size_bytes()))));
    case v1::Event::kEval: {
      std::string text = absl::StrFormat("evaluation at step %d:", event.eval().step());
      for (const char* key :
           {"eval_loss", "eval_mean_token_accuracy", "eval_rewards/margins", "eval_rewards/accuracies"}) {
        const auto it = event.eval().values().find(key);
        if (it != event.eval().values().end()) absl::StrAppendFormat(&text, " %s %.4f", key, it->second);
      }
      return text;
    }
    case v1::Event::kLog:
      return event.log().level() >= 2 ? Printable(event.log().text()) : "";
    case v1::Event::kGap:
      return style.Yellow(absl::StrFormat("events %d to %d are no longer kept", event.gap().first_missing(),
                                          event.gap().last_missing()));
    case v1::Event::kStateChanged:
      if (event.state_changed().to() == v1::QUEUED && event.state_changed().from() != v1::VALIDATING) {
        return style.Yellow(Printable(event.state_changed().message()));
      }
      return "";
    default:
      return "";
  }
}

}  // namespace finetuned::cli
