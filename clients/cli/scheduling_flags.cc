#include "clients/cli/scheduling_flags.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "clients/cli/client.h"

namespace finetuned::cli {
namespace {

absl::Duration ParseFlag(const char* flag, const std::string& text) {
  absl::Duration duration;
  if (absl::ParseDuration(text, &duration) && duration >= absl::ZeroDuration()) return duration;
  throw CommandError{kUsage, absl::StrCat(flag, ": ", text, " is not a duration such as 90m or 2h30m")};
}

}  // namespace

void AddSchedulingFlags(CLI::App* c, SchedulingFlags* f) {
  c->add_option("--priority", f->priority, "-100..100, larger first");
  c->add_flag("--preemptible", f->preemptible, "May be moved off the GPU by a higher priority");
  c->add_flag("--hold", f->hold, "Stay in the queue until released");
  c->add_option("--after", f->after, "Jobs that must have succeeded before")->delimiter(',')->allow_extra_args(false);
  c->add_option("--not-before", f->not_before, "Start no earlier: 2026-12-01T08:00:00Z, \"2026-12-01 08:00\", 08:00 or +2h");
  c->add_option("--max-run", f->max_run, "Fail when it has the GPU for longer: 90m, 2h30m");
  c->add_option("--max-attempts", f->max_attempts, "Attempts before a crashing job fails (default 3)");
}

std::vector<std::string> ApplyScheduling(const SchedulingFlags& f, v1::Scheduling* scheduling) {
  std::vector<std::string> fields;
  const auto given = [&](const char* field) { fields.push_back(absl::StrCat("scheduling.", field)); };
  if (f.priority) {
    scheduling->set_priority(*f.priority);
    given("priority");
  }
  if (f.preemptible || f.not_preemptible) {
    scheduling->set_preemptible(f.preemptible);
    given("preemptible");
  }
  if (f.hold) {
    scheduling->set_hold(true);
    given("hold");
  }
  if (!f.after.empty()) {
    scheduling->clear_after();
    for (const std::string& job : f.after) {
      if (job != "none") scheduling->add_after(ResourceName("jobs", job));
    }
    given("after");
  }
  if (!f.not_before.empty()) {
    const absl::Time when = ParseWhen(f.not_before, absl::Now(), absl::LocalTimeZone());
    scheduling->mutable_not_before()->set_seconds(absl::ToUnixSeconds(when));
    given("not_before");
  }
  if (!f.max_run.empty()) {
    const absl::Duration limit = ParseFlag("--max-run", f.max_run);
    scheduling->mutable_max_run_duration()->set_seconds(absl::ToInt64Seconds(limit));
    given("max_run_duration");
  }
  if (f.max_attempts) {
    scheduling->set_max_attempts(*f.max_attempts);
    given("max_attempts");
  }
  return fields;
}

absl::Time ParseWhen(const std::string& text, absl::Time now, absl::TimeZone zone) {
  if (absl::StartsWith(text, "+")) return now + ParseFlag("--not-before", text.substr(1));
  absl::Time time;
  if (absl::ParseTime(absl::RFC3339_full, text, &time, nullptr)) return time;
  for (const char* format : {"%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d"}) {
    if (absl::ParseTime(format, text, zone, &time, nullptr)) return time;
  }
  const std::string today = absl::FormatTime("%Y-%m-%d ", now, zone);
  if (absl::ParseTime("%Y-%m-%d %H:%M", today + text, zone, &time, nullptr)) {
    return time > now ? time : time + absl::Hours(24);
  }
  throw CommandError{kUsage, absl::StrCat("--not-before: ", text,
                                          " is not a time such as 2026-12-01T08:00:00Z, \"2026-12-01 08:00\", 08:00 or +2h")};
}

}  // namespace finetuned::cli
