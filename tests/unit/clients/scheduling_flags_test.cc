#include "clients/cli/scheduling_flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "clients/cli/client.h"

namespace finetuned::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(SchedulingFlags, OnlyWhatWasGivenIsWritten) {
  v1::Scheduling scheduling;
  scheduling.set_priority(7);
  EXPECT_THAT(ApplyScheduling({}, &scheduling), IsEmpty());
  EXPECT_EQ(scheduling.priority(), 7);
  SchedulingFlags flags;
  flags.priority = 0;
  flags.hold = true;
  flags.not_preemptible = true;
  flags.after = {"first", "jobs/second"};
  flags.max_run = "90m";
  scheduling.set_preemptible(true);
  EXPECT_THAT(ApplyScheduling(flags, &scheduling),
              ElementsAre("scheduling.priority", "scheduling.preemptible", "scheduling.hold", "scheduling.after",
                          "scheduling.max_run_duration"));
  EXPECT_EQ(scheduling.priority(), 0);
  EXPECT_FALSE(scheduling.preemptible());
  EXPECT_THAT(scheduling.after(), ElementsAre("jobs/first", "jobs/second"));
  EXPECT_EQ(scheduling.max_run_duration().seconds(), 5400);
}

TEST(SchedulingFlags, DependenciesAreTakenAwayByNone) {
  v1::Scheduling scheduling;
  scheduling.add_after("jobs/first");
  SchedulingFlags flags;
  flags.after = {"none"};
  EXPECT_THAT(ApplyScheduling(flags, &scheduling), ElementsAre("scheduling.after"));
  EXPECT_THAT(scheduling.after(), IsEmpty());
}

TEST(SchedulingFlags, TimesAreReadAsPeopleWriteThem) {
  const absl::TimeZone zone = absl::FixedTimeZone(3600);
  const absl::Time now = absl::FromCivil(absl::CivilMinute(2026, 12, 1, 9, 0), zone);
  EXPECT_EQ(ParseWhen("+2h30m", now, zone), now + absl::Minutes(150));
  EXPECT_EQ(ParseWhen("2026-12-01T09:30:00+01:00", now, zone), now + absl::Minutes(30));
  EXPECT_EQ(ParseWhen("2026-12-02 09:00", now, zone), now + absl::Hours(24));
  EXPECT_EQ(ParseWhen("10:00", now, zone), now + absl::Hours(1));
  EXPECT_EQ(ParseWhen("08:00", now, zone), now + absl::Hours(23)) << "tomorrow";
  EXPECT_THROW(ParseWhen("soon", now, zone), CommandError);
  EXPECT_THROW(ParseWhen("+soon", now, zone), CommandError);
}

}  // namespace
}  // namespace finetuned::cli
