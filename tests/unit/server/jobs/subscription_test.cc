#include "server/jobs/subscription.h"

#include <gmock/gmock.h>

#include "tests/unit/server/jobs/manager_fixture.h"

namespace finetuned::jobs {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<int64_t> Pull(const std::shared_ptr<Subscription>& subscription, int limit = 100) {
  std::vector<int64_t> sequences;
  const auto events = subscription->Pull(limit);  // named: a loop over *temporary outlives it
  for (const v1::Event& event : *events) sequences.push_back(event.sequence());
  return sequences;
}

// A store with one job, written to by hand.
class SubscriptionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/ftsbXXXXXX";
    dir_ = mkdtemp(name);
    store_ = *store::Store::Open({store::Layout{dir_}, nullptr});
    bus_ = std::make_unique<EventBus>(store_.get());
    job_.job.set_uid("u");
    job_.job.set_name("jobs/a");
    job_.job.set_state(v1::RUNNING);
  }
  void TearDown() override {
    bus_.reset();
    store_.reset();
    std::filesystem::remove_all(dir_);
  }
  v1::Event Write(v1::Event event) {
    store::WriteBatch batch;
    batch.jobs.push_back(job_);
    batch.events.push_back({"u", std::move(event)});
    EXPECT_TRUE(store_->Commit(&batch).ok());
    return batch.events[0].event;
  }
  v1::Event Log(size_t bytes = 10) {
    v1::Event event;
    event.mutable_log()->set_text(std::string(bytes, 'x'));
    return event;
  }
  v1::Event State(v1::JobState to) {
    job_.job.set_state(to);
    v1::Event event;
    event.mutable_state_changed()->set_to(to);
    return event;
  }
  void Say(v1::Event event) { bus_->Publish("u", Write(std::move(event))); }
  std::shared_ptr<Subscription> Subscribe(int64_t after) { return *bus_->Subscribe("u", "jobs/a", after); }
  std::string dir_;
  std::unique_ptr<store::Store> store_;
  std::unique_ptr<EventBus> bus_;
  store::JobRecord job_;
};

TEST_F(SubscriptionTest, ReplaysThenFollowsThenEnds) {
  Say(Log());
  Say(Log());
  const auto all = Subscribe(0), last = Subscribe(1), coming = Subscribe(-1);
  EXPECT_THAT(Pull(all), ElementsAre(1, 2));
  EXPECT_THAT(Pull(last), ElementsAre(2));
  EXPECT_THAT(Pull(coming), IsEmpty());
  Say(Log());
  for (const auto& subscription : {all, last, coming}) {
    EXPECT_THAT(Pull(subscription), ElementsAre(3));
    EXPECT_FALSE(subscription->finished());
  }
  Say(State(v1::SUCCEEDED));
  EXPECT_FALSE(all->finished()) << "the end has not been pulled";
  EXPECT_THAT(Pull(all), ElementsAre(4));
  EXPECT_TRUE(all->finished());
  EXPECT_TRUE(all->status().ok());
}

TEST_F(SubscriptionTest, EndedJobIsReplayedAndEnds) {
  Say(Log());
  Say(State(v1::FAILED));
  const auto subscription = Subscribe(0);
  EXPECT_THAT(Pull(subscription, 1), ElementsAre(1));
  EXPECT_FALSE(subscription->finished());
  EXPECT_THAT(Pull(subscription), ElementsAre(2));
  EXPECT_TRUE(subscription->finished());
}

TEST_F(SubscriptionTest, EndOfAnEarlierRunIsNotTheEnd) {
  Say(State(v1::FAILED));
  Say(State(v1::QUEUED));
  const auto subscription = Subscribe(0);
  EXPECT_THAT(Pull(subscription), ElementsAre(1, 2));
  EXPECT_FALSE(subscription->finished());
}

TEST_F(SubscriptionTest, EventsAreNotSeenBeforeTheyArePublished) {
  Say(Log());
  const auto subscription = Subscribe(0);
  const v1::Event stored = Write(Log());
  EXPECT_THAT(Pull(subscription), ElementsAre(1));
  EXPECT_THAT(Pull(subscription), IsEmpty());
  bus_->Publish("u", stored);
  EXPECT_THAT(Pull(subscription), ElementsAre(2));
}

TEST_F(SubscriptionTest, SlowWatcherGetsEverythingFromTheLog) {
  const auto subscription = [&] {
    Say(Log());
    return Subscribe(0);
  }();
  for (int i = 0; i < 40; ++i) Say(Log(100000));  // four times the buffer
  std::vector<int64_t> seen;
  for (;;) {
    const auto some = Pull(subscription, 7);
    if (some.empty()) break;
    seen.insert(seen.end(), some.begin(), some.end());
    if (seen.size() == 14) Say(Log());
  }
  ASSERT_EQ(seen.size(), 42u);
  for (size_t i = 0; i < seen.size(); ++i) EXPECT_EQ(seen[i], static_cast<int64_t>(i) + 1);
}

TEST_F(SubscriptionTest, ReadyIsCalledOnceWhenThereIsSomething) {
  Say(Log());
  const auto subscription = Subscribe(-1);
  int calls = 0;
  subscription->OnReady([&] { ++calls; });
  EXPECT_EQ(calls, 0);
  Say(Log());
  Say(Log());
  EXPECT_EQ(calls, 1);
  subscription->OnReady([&] { ++calls; });
  EXPECT_EQ(calls, 2) << "there is something already";
}

TEST_F(SubscriptionTest, ClosingTellsTheReader) {
  Say(Log());
  const auto subscription = Subscribe(-1);
  int calls = 0;
  subscription->OnReady([&] { ++calls; });
  bus_->Close("u", absl::UnavailableError("leaving"));
  EXPECT_EQ(calls, 1);
  EXPECT_TRUE(subscription->finished());
  EXPECT_TRUE(absl::IsUnavailable(subscription->status()));
}

TEST_F(SubscriptionTest, GoneSubscriptionsAreForgotten) {
  Say(Log());
  auto subscription = Subscribe(0);
  EXPECT_EQ(bus_->subscriptions(), 1u);
  subscription.reset();
  EXPECT_EQ(bus_->subscriptions(), 0u);
  EXPECT_TRUE(absl::IsNotFound(bus_->Subscribe("v", "jobs/none", 0).status()));
  EXPECT_EQ(bus_->subscriptions(), 0u);
}

// Two watchers, one from the start and one that comes and goes, see the same events of a real job.
TEST_F(ManagerTest, WatchersSeeEveryEventOnce) {
  Create("crashonce-1");
  const auto steady = *manager_->Subscribe("jobs/crashonce-1", 0);
  std::vector<int64_t> seen, other;
  int64_t token = 0;
  ASSERT_TRUE(Wait([&] {
    for (int64_t sequence : Pull(steady, 3)) seen.push_back(sequence);
    const auto visitor = *manager_->Subscribe("jobs/crashonce-1", token);
    for (int64_t sequence : Pull(visitor, 2)) other.push_back(token = sequence);
    return steady->finished() && visitor->finished();
  }));
  EXPECT_EQ(seen, other);
  EXPECT_EQ(seen.size(), Events("crashonce-1").size());
  for (size_t i = 0; i < seen.size(); ++i) EXPECT_EQ(seen[i], static_cast<int64_t>(i) + 1);
}

}  // namespace
}  // namespace finetuned::jobs
