#include "clients/cli/job_text.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "proto/spec/tools.h"

namespace finetuned::cli {
namespace {

std::string ProgressText(const v1::Job& job) {
  const v1::Progress& p = job.progress();
  if (job.state() == v1::QUEUED) return absl::StrCat("#", p.queue_position(), " in queue");
  if (p.total_steps() == 0) return p.phase().empty() ? "-" : p.phase();
  return absl::StrFormat("%d/%d %3.0f%%", p.step(), p.total_steps(),
                         100.0 * static_cast<double>(p.step()) / static_cast<double>(p.total_steps()));
}

double Metric(const v1::Job& job, const char* key, double absent = -1) {
  const auto it = job.progress().latest_metrics().find(key);
  return it == job.progress().latest_metrics().end() ? absent : it->second;
}

std::string LossText(const v1::Job& job) {
  return job.progress().latest_metrics().contains("loss") ? absl::StrFormat("%.4f", Metric(job, "loss")) : "-";
}

// "NVIDIA GeForce RTX 3090  97 %  71 C  312 of 350 W" and a bar of its memory.
void AddDevice(const v1::Device& d, int width, const Style& style, std::vector<std::string>* lines) {
  std::string line = absl::StrCat(style.Bold(absl::StrCat("GPU ", d.index())), "  ", Printable(d.product()));
  if (d.has_utilization_ratio()) absl::StrAppendFormat(&line, "  %.0f%% busy", 100 * d.utilization_ratio());
  if (d.has_temperature_celsius()) absl::StrAppendFormat(&line, "  %.0f C", d.temperature_celsius());
  if (d.has_power_watts()) absl::StrAppendFormat(&line, "  %.0f W", d.power_watts());
  if (d.has_power_limit_watts()) absl::StrAppendFormat(&line, " of %.0f W", d.power_limit_watts());
  if (d.has_sm_clock_hertz()) absl::StrAppendFormat(&line, "  %.0f MHz", d.sm_clock_hertz() / 1e6);
  lines->push_back(line);
  if (d.memory_total_bytes() <= 0) return;
  const auto total = static_cast<double>(d.memory_total_bytes());
  const double used = total - static_cast<double>(d.memory_free_bytes());
  lines->push_back(absl::StrCat("       ", ProgressBar(used / total, std::clamp(width - 40, 10, 40)), " ",
                                FormatBytes(used), " of ", FormatBytes(total)));
}

void AddRunning(const v1::Job& job, int width, const Style& style, std::vector<std::string>* lines) {
  const v1::Progress& p = job.progress();
  lines->push_back(absl::StrCat(style.Bold(ShortName(job.name())), "  ", MethodName(job.spec()), "  ",
                                Printable(job.spec().base_model()), "  ", ColoredState(job.state(), style), "  ",
                                p.total_steps() == 0 ? p.phase() : ""));
  if (p.total_steps() > 0) {
    const double done = static_cast<double>(p.step()) / static_cast<double>(p.total_steps());
    std::string line = absl::StrFormat("  %s %d/%d steps %.1f%%", ProgressBar(done, std::clamp(width - 50, 10, 40)),
                                       p.step(), p.total_steps(), 100 * done);
    if (p.remaining().seconds() > 0) {
      absl::StrAppend(&line, "  ETA ", FormatDuration(static_cast<double>(p.remaining().seconds())));
    }
    lines->push_back(line);
  }
  if (!p.latest_metrics().contains("loss")) return;
  std::string line = absl::StrFormat("  loss %.4f  %s tokens/s  grad norm %.3f", Metric(job, "loss"),
                                     FormatCount(Metric(job, "tokens_per_second", 0)), Metric(job, "grad_norm", 0));
  if (const double peak = Metric(job, "memory_peak_bytes"); peak > 0) {
    absl::StrAppend(&line, "  memory ", FormatBytes(peak), " peak of ",
                    FormatBytes(static_cast<double>(job.memory().total_bytes())), " planned");
  }
  lines->push_back(line);
}

void AppendTable(const std::vector<v1::Job>& jobs, int64_t now, const Style& style, std::vector<std::string>* lines) {
  if (jobs.empty()) return;
  lines->push_back("");
  for (absl::string_view line : absl::StrSplit(JobTable(jobs, now, style), '\n', absl::SkipEmpty())) {
    lines->emplace_back(line);
  }
}

std::string Values(const google::protobuf::Map<std::string, double>& values) {
  std::vector<std::pair<std::string, double>> sorted(values.begin(), values.end());
  std::sort(sorted.begin(), sorted.end());
  return absl::StrJoin(sorted, "  ", [](std::string* out, const auto& kv) {
    absl::StrAppend(out, kv.first, " ", absl::StrFormat("%.5g", kv.second));
  });
}

std::string EventText(const v1::Event& e, const Style& style) {
  switch (e.payload_case()) {
    case v1::Event::kStateChanged: {
      const auto& s = e.state_changed();
      std::string text = absl::StrCat(StateName(s.from()), " -> ", ColoredState(s.to(), style));
      if (s.reason() != v1::STATE_REASON_UNSPECIFIED) absl::StrAppend(&text, " (", ReasonName(s.reason()), ")");
      return s.message().empty() ? text : absl::StrCat(text, "  ", Printable(s.message()));
    }
    case v1::Event::kMetrics: return absl::StrCat("step ", e.metrics().step(), "  ", Values(e.metrics().values()));
    case v1::Event::kEval: return absl::StrCat("evaluation at step ", e.eval().step(), "  ", Values(e.eval().values()));
    case v1::Event::kCheckpoint:
      return absl::StrCat("checkpoint at step ", e.checkpoint().step(), "  ",
                          FormatBytes(static_cast<double>(e.checkpoint().size_bytes())));
    case v1::Event::kLog: return Printable(e.log().text());
    case v1::Event::kWarning:
      return style.Yellow(absl::StrCat("warning ", e.warning().code(), ": ", Printable(e.warning().text())));
    case v1::Event::kSample:
      return absl::StrCat("sample at step ", e.sample().step(), "  ", Printable(e.sample().prompt()), " => ",
                          Printable(e.sample().completion()));
    case v1::Event::kPlanned:
      return absl::StrCat("planned ", e.planned().total_steps(), " steps, ", e.planned().first_step(), " done");
    case v1::Event::kGap:
      return absl::StrCat("events ", e.gap().first_missing(), " to ", e.gap().last_missing(), " are no longer kept");
    default: return "";
  }
}

}  // namespace

std::string MethodName(const v1::JobSpec& spec) {
  const std::string name = spec::MethodName(spec);
  return name.empty() ? "-" : name;
}

std::string StateName(v1::JobState state) { return v1::JobState_Name(state); }
std::string ReasonName(v1::StateReason reason) { return v1::StateReason_Name(reason); }

bool IsTerminal(v1::JobState state) {
  return state == v1::SUCCEEDED || state == v1::FAILED || state == v1::CANCELLED;
}

std::string ColoredState(v1::JobState state, const Style& style) {
  const std::string name = StateName(state);
  switch (state) {
    case v1::SUCCEEDED: return style.Green(name);
    case v1::FAILED: return style.Red(name);
    case v1::CANCELLED:
    case v1::CANCELLING: return style.Yellow(name);
    default: return style.Cyan(name);
  }
}

std::string JobTable(const std::vector<v1::Job>& jobs, int64_t now, const Style& style) {
  std::vector<std::vector<std::string>> rows = {{"JOB", "METHOD", "MODEL", "STATE", "PROGRESS", "LOSS", "CREATED"}};
  for (const v1::Job& job : jobs) {
    const std::string& model = job.spec().base_model();  // "models/x", or a path
    rows.push_back({ShortName(job.name()), MethodName(job.spec()), model.substr(model.rfind('/') + 1),
                    ColoredState(job.state(), style), ProgressText(job), LossText(job),
                    FormatAgo(job.create_time().seconds(), now)});
  }
  return Table(rows);
}

std::vector<std::string> TopView(const v1::ServerInfo& info, const std::vector<v1::Job>& jobs, int64_t now, int width,
                                 int height, const Style& style) {
  std::vector<v1::Job> queued, ended;
  std::vector<std::string> lines = {
      absl::StrCat(style.Bold(absl::StrCat("finetuned ", info.version())), "  up ",
                   FormatDuration(static_cast<double>(std::max<int64_t>(0, now - info.start_time().seconds()))),
                   "  worker ", info.worker_state(), info.accepting_jobs() ? "" : style.Yellow("  draining"))};
  if (info.devices().empty()) lines.push_back(style.Dim("no GPU: jobs run on the CPU"));
  for (const v1::Device& d : info.devices()) AddDevice(d, width, style, &lines);
  lines.push_back("");
  bool running = false;
  for (const v1::Job& job : jobs) {
    if (job.state() == v1::QUEUED || job.state() == v1::PAUSED || job.state() == v1::VALIDATING) {
      queued.push_back(job);
    } else if (IsTerminal(job.state())) {
      ended.push_back(job);
    } else {
      AddRunning(job, width, style, &lines);
      running = true;
    }
  }
  if (!running) lines.push_back(style.Dim("no job has the device"));
  std::stable_sort(queued.begin(), queued.end(), [](const v1::Job& a, const v1::Job& b) {
    const auto place = [](const v1::Job& j) { return j.progress().queue_position() > 0 ? j.progress().queue_position() : 1 << 30; };
    return place(a) < place(b);
  });
  AppendTable(queued, now, style, &lines);
  AppendTable(ended, now, style, &lines);
  if (static_cast<int>(lines.size()) > height) lines.resize(std::max(1, height));
  for (std::string& line : lines) line = Clip(line, width);
  return lines;
}

std::string JsonLine(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string json;
  return google::protobuf::util::MessageToJsonString(message, &json, options).ok() ? json : "";
}

std::string EventLine(const v1::Event& event, const Style& style) {
  const absl::Time time = absl::FromUnixSeconds(event.time().seconds()) + absl::Nanoseconds(event.time().nanos());
  return absl::StrCat(style.Dim(absl::FormatTime("%Y-%m-%d %H:%M:%S", time, absl::LocalTimeZone())), "  ",
                      EventText(event, style));
}

}  // namespace finetuned::cli
