#include <google/protobuf/util/time_util.h>
#include <gtest/gtest.h>

#include "server/api/watch_stream.h"
#include "server/api/watch_token.h"

namespace finetuned::api {
namespace {

v1::Event Metric(double seconds) {
  v1::Event event;
  event.mutable_metrics()->set_step(1);
  *event.mutable_time() =
      google::protobuf::util::TimeUtil::MillisecondsToTimestamp(static_cast<int64_t>(seconds * 1000));
  return event;
}

v1::Event State(v1::JobState to) {
  v1::Event event;
  event.mutable_state_changed()->set_to(to);
  return event;
}

TEST(WatchToken, ComesBackWhole) {
  const std::string bytes = EncodeWatchToken({1, 123456789012, "0a1b-uid"});
  const auto token = DecodeWatchToken(bytes);
  ASSERT_TRUE(token.ok());
  EXPECT_EQ(token->sequence, 123456789012);
  EXPECT_EQ(token->job_uid, "0a1b-uid");
  EXPECT_EQ(token->epoch, 1u);
}

TEST(WatchToken, EveryDamagedByteIsNoticed) {
  const std::string bytes = EncodeWatchToken({1, 42, "uid"});
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::string bad = bytes;
    bad[i] ^= 0x10;
    EXPECT_EQ(DecodeWatchToken(bad).status().code(), absl::StatusCode::kInvalidArgument) << i;
  }
  EXPECT_FALSE(DecodeWatchToken("").ok());
  EXPECT_FALSE(DecodeWatchToken(bytes.substr(0, bytes.size() - 1)).ok());
  EXPECT_FALSE(DecodeWatchToken(std::string(1000, 'x')).ok());
}

TEST(WatchFilter, MetricsAreCoalescedByTheirOwnTime) {
  WatchFilter filter({}, absl::Seconds(1));
  EXPECT_TRUE(filter.Passes(Metric(10.0)));
  EXPECT_FALSE(filter.Passes(Metric(10.5)));
  EXPECT_FALSE(filter.Passes(Metric(10.9)));
  EXPECT_TRUE(filter.Passes(Metric(11.0)));
  WatchFilter all({}, absl::ZeroDuration());
  EXPECT_TRUE(all.Passes(Metric(10.0)));
  EXPECT_TRUE(all.Passes(Metric(10.0)));
}

TEST(WatchFilter, CoalescingNeverDropsOtherKinds) {
  WatchFilter filter({}, absl::Hours(1));
  v1::Event checkpoint, eval, warning;
  checkpoint.mutable_checkpoint();
  eval.mutable_eval();
  warning.mutable_warning();
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(filter.Passes(checkpoint));
    EXPECT_TRUE(filter.Passes(eval));
    EXPECT_TRUE(filter.Passes(warning));
    EXPECT_TRUE(filter.Passes(State(v1::RUNNING)));
  }
}

TEST(WatchFilter, TheTerminalStateChangePassesAnyChoiceOfKinds) {
  WatchFilter filter({v1::Event::kMetrics}, absl::ZeroDuration());
  EXPECT_FALSE(filter.Passes(State(v1::RUNNING)));
  EXPECT_TRUE(filter.Passes(State(v1::SUCCEEDED)));
  EXPECT_TRUE(filter.Passes(State(v1::FAILED)));
  EXPECT_TRUE(filter.Passes(State(v1::CANCELLED)));
  EXPECT_FALSE(filter.WantsHeartbeats());
}

TEST(WatchFilter, EveryKindHasAName) {
  EXPECT_EQ(EventKind("metrics"), v1::Event::kMetrics);
  EXPECT_FALSE(EventKind("metric").has_value());
  EXPECT_NE(EventKindNames().find("state_changed"), std::string::npos);
}

}  // namespace
}  // namespace finetuned::api
