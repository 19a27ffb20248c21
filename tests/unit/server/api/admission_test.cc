#include "server/api/admission.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/synchronization/notification.h"

namespace finetuned::api {
namespace {

Admission::Call Call(int number) { return reinterpret_cast<Admission::Call>(static_cast<intptr_t>(number + 1)); }

// Room for two messages of 10 bytes that are being sent.
class AdmissionTest : public ::testing::Test {
 protected:
  static Admission::Options Options() { return {.total_bytes = 40, .message_bytes = 10, .patience = absl::Hours(1)}; }
  void Enter(int call, const std::string& connection) {
    admission_.Enter(Call(call), connection, [this, call] { started_.push_back(call); }, [] {});
  }
  void TearDown() override {
    for (int call = 0; call < 10; ++call) admission_.Leave(Call(call));
    EXPECT_EQ(admission_.held_bytes(), 0);
    EXPECT_EQ(admission_.waiting(), 0);
  }

  std::vector<int> started_;
  Admission admission_{Options()};
};

TEST_F(AdmissionTest, MessagesWaitForRoomForTheLargest) {
  for (int call = 0; call < 4; ++call) Enter(call, "a");
  EXPECT_EQ(started_, (std::vector<int>{0, 1}));
  EXPECT_EQ(admission_.held_bytes(), 40);
  admission_.Arrived(Call(0), 3);  // 6 bytes are held until the call ends: no room for 20 more
  EXPECT_EQ(started_.size(), 2u);
  EXPECT_EQ(admission_.held_bytes(), 26);
  admission_.Leave(Call(0));
  EXPECT_EQ(started_, (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(admission_.waiting(), 1);
}

TEST_F(AdmissionTest, AConnectionThatSendsNothingIsNext) {
  for (int call = 0; call < 5; ++call) Enter(call, "flood");
  Enter(5, "honest");
  admission_.Leave(Call(0));
  EXPECT_EQ(started_, (std::vector<int>{0, 1, 5}));
}

TEST_F(AdmissionTest, ConnectionsTakeTurns) {
  Enter(0, "a");
  Enter(1, "b");
  for (int call = 2; call < 5; ++call) Enter(call, "a");
  for (int call = 5; call < 7; ++call) Enter(call, "b");
  Enter(7, "honest");
  admission_.Leave(Call(0));  // now "a" sends nothing either, but had its turn
  EXPECT_EQ(started_, (std::vector<int>{0, 1, 7}));
  admission_.Leave(Call(7));
  EXPECT_EQ(started_, (std::vector<int>{0, 1, 7, 2}));
}

TEST_F(AdmissionTest, WhoLeavesWhileWaitingIsNotStarted) {
  for (int call = 0; call < 4; ++call) Enter(call, "a");
  admission_.Leave(Call(2));
  admission_.Leave(Call(0));
  EXPECT_EQ(started_, (std::vector<int>{0, 1, 3}));
}

TEST_F(AdmissionTest, StreamsTakeHalfAtMost) {
  EXPECT_TRUE(admission_.EnterStream(Call(0)));
  EXPECT_FALSE(admission_.EnterStream(Call(1)));
  Enter(2, "a");
  EXPECT_EQ(started_, std::vector<int>{2});
  admission_.Leave(Call(0));
  EXPECT_TRUE(admission_.EnterStream(Call(1)));
}

TEST(AdmissionOfLargeMessagesTest, OneIsLetInEvenIfItIsLargerThanAllRoom) {
  Admission admission({.total_bytes = 10, .message_bytes = 100});
  int started = 0;
  admission.Enter(Call(0), "a", [&] { ++started; }, [] {});
  admission.Enter(Call(1), "b", [&] { ++started; }, [] {});
  EXPECT_EQ(started, 1);
  admission.Leave(Call(0));
  EXPECT_EQ(started, 2);
  admission.Leave(Call(1));
  EXPECT_TRUE(admission.EnterStream(Call(2)));
  admission.Leave(Call(2));
}

TEST(SlowMessagesTest, AreGivenUpWhenOthersWait) {
  Admission admission({.total_bytes = 40, .message_bytes = 10, .patience = absl::Milliseconds(20)});
  absl::Notification given_up, started;
  admission.Enter(Call(0), "a", [] {}, [&] { given_up.Notify(); });
  EXPECT_FALSE(given_up.WaitForNotificationWithTimeout(absl::Milliseconds(100)));  // nobody waits
  admission.Enter(Call(1), "a", [] {}, [] {});
  admission.Enter(Call(2), "b", [&] { started.Notify(); }, [] {});
  given_up.WaitForNotification();
  EXPECT_FALSE(started.HasBeenNotified());
  admission.Leave(Call(0));
  started.WaitForNotification();
  for (int call = 1; call < 3; ++call) admission.Leave(Call(call));
}

}  // namespace
}  // namespace finetuned::api
