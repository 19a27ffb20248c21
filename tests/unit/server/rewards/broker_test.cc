#include "server/rewards/broker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "absl/strings/str_cat.h"

namespace finetuned::rewards {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Drives a broker with a clock that the test moves, and writes actions as short texts.
class BrokerTest : public ::testing::Test {
 protected:
  int64_t Attach(int credits, const std::vector<std::string>& names = {"r"}, const std::string& job = "",
                 int max_in_flight = 0) {
    v1::RewardHello hello;
    hello.set_job(job);
    hello.set_max_in_flight(max_in_flight);
    for (const std::string& name : names) hello.add_reward_names(name);
    const auto worker = broker_.Attach(hello);
    EXPECT_TRUE(worker.ok()) << worker.status();
    if (credits > 0) Credit(*worker, credits);
    return *worker;
  }
  std::vector<std::string> Credit(int64_t worker, int batches) {
    v1::RewardWorkerMessage message;
    message.mutable_credit()->set_batches(batches);
    return Say(worker, message);
  }
  std::vector<std::string> Say(int64_t worker, const v1::RewardWorkerMessage& message) {
    auto actions = broker_.Message(worker, message, now_);
    if (!actions.ok()) return {absl::StrCat("error: ", actions.status().message())};
    return Show(*actions);
  }
  std::vector<std::string> Ask(const std::string& batch, const std::string& job = "jobs/a") {
    Question question;
    question.job = job;
    question.batch_id = batch;
    question.reward_names = {"r"};
    question.items.resize(2);
    question.lease = absl::Seconds(10);
    question.grace = absl::Seconds(30);
    return Show(broker_.Ask(std::move(question), now_));
  }
  std::vector<std::string> Result(int64_t worker, const std::string& batch, int64_t epoch, int values = 2,
                                  const std::string& error = "") {
    v1::RewardWorkerMessage message;
    v1::RewardResult* result = message.mutable_result();
    result->set_batch_id(batch);
    result->set_lease_epoch(epoch);
    if (!error.empty()) {
      result->mutable_error()->set_code(2);
      result->mutable_error()->set_message(error);
    } else {
      result->add_scores()->set_reward_name("r");
      for (int i = 0; i < values; ++i) result->mutable_scores(0)->add_values(i);
    }
    return Say(worker, message);
  }
  std::vector<std::string> Later(int seconds) {
    now_ += absl::Seconds(seconds);
    return Show(broker_.Tick(now_));
  }
  static std::vector<std::string> Show(const Actions& actions) {
    std::vector<std::string> texts;
    for (const Action& action : actions) {
      if (const auto* send = std::get_if<Send>(&action)) {
        const bool batch = send->message.has_batch();
        texts.push_back(absl::StrCat(
            send->worker, batch ? " gets " : " loses ",
            batch ? send->message.batch().batch_id() : send->message.revoke().batch_id(), " ",
            batch ? send->message.batch().lease_epoch() : send->message.revoke().lease_epoch()));
      } else if (const auto* answer = std::get_if<Answer>(&action)) {
        texts.push_back(absl::StrCat(answer->batch_id, answer->status.ok() ? " scored" : ": ",
                                     answer->status.message()));
      } else {
        texts.push_back(absl::StrCat(std::get<WorkerLost>(action).job, " has no worker"));
      }
    }
    return texts;
  }

  RewardBroker broker_;
  absl::Time now_ = absl::FromUnixSeconds(1'000'000);
};

TEST_F(BrokerTest, BatchesAreSentOnlyAgainstCredits) {
  const int64_t worker = Attach(1);
  EXPECT_THAT(Ask("b1"), ElementsAre("1 gets jobs/a/b1 1"));
  EXPECT_THAT(Ask("b2"), IsEmpty());
  EXPECT_THAT(Result(worker, "jobs/a/b1", 1), ElementsAre("b1 scored"));
  EXPECT_THAT(Credit(worker, 2), ElementsAre("1 gets jobs/a/b2 1"));
  EXPECT_THAT(Ask("b3"), ElementsAre("1 gets jobs/a/b3 1"));
}

TEST_F(BrokerTest, WorkersShareTheBatches) {
  Attach(5);
  Attach(5, {"r", "other"}, "jobs/a", /*max_in_flight=*/1);
  EXPECT_THAT(Ask("b1"), ElementsAre("1 gets jobs/a/b1 1"));
  EXPECT_THAT(Ask("b2"), ElementsAre("2 gets jobs/a/b2 1"));
  EXPECT_THAT(Ask("b3"), ElementsAre("1 gets jobs/a/b3 1")) << "the other has all it wants";
}

TEST_F(BrokerTest, ResultsMayComeInAnyOrder) {
  const int64_t worker = Attach(3);
  Ask("b1");
  Ask("b2");
  EXPECT_THAT(Result(worker, "jobs/a/b2", 1), ElementsAre("b2 scored"));
  EXPECT_THAT(Result(worker, "jobs/a/b1", 1), ElementsAre("b1 scored"));
}

TEST_F(BrokerTest, AnExpiredLeaseGoesToAnotherAndTheLateResultIsIgnored) {
  const int64_t slow = Attach(1), quick = Attach(0);
  Ask("b1");
  EXPECT_THAT(Later(9), IsEmpty());
  Credit(quick, 1);
  EXPECT_THAT(Later(1), ElementsAre("1 loses jobs/a/b1 1", "2 gets jobs/a/b1 2"));
  EXPECT_THAT(Result(slow, "jobs/a/b1", 1), IsEmpty()) << "late";
  EXPECT_THAT(Result(slow, "jobs/a/b1", 2), IsEmpty()) << "not its lease";
  EXPECT_THAT(Result(quick, "jobs/a/b1", 2), ElementsAre("b1 scored"));
  EXPECT_THAT(Result(quick, "jobs/a/b1", 2), IsEmpty()) << "answered already";
  EXPECT_EQ(broker_.counts().late, 3);
  EXPECT_EQ(broker_.counts().timed_out, 1);
}

TEST_F(BrokerTest, ProgressBeginsTheLeaseAnew) {
  const int64_t worker = Attach(1);
  Ask("b1");
  Later(9);
  v1::RewardWorkerMessage message;
  message.mutable_progress()->set_batch_id("jobs/a/b1");
  Say(worker, message);
  EXPECT_THAT(Later(9), IsEmpty());
  EXPECT_EQ(broker_.NextDeadline(), now_ + absl::Seconds(1));
  EXPECT_THAT(Later(1), ElementsAre("1 loses jobs/a/b1 1"));
}

TEST_F(BrokerTest, AfterMaxAttemptsTheAnswerIsTheLastError) {
  const int64_t worker = Attach(10);
  Ask("b1");
  EXPECT_THAT(Result(worker, "jobs/a/b1", 1, 2, "ZeroDivisionError"), ElementsAre("1 gets jobs/a/b1 2"));
  EXPECT_THAT(Later(10), ElementsAre("1 loses jobs/a/b1 2", "1 gets jobs/a/b1 3"));
  EXPECT_THAT(Result(worker, "jobs/a/b1", 3, /*values=*/3),
              ElementsAre("b1: reward r gave 3 values for 2 completions (3 attempts)"));
  EXPECT_THAT(Later(100), IsEmpty());
}

TEST_F(BrokerTest, AWorkerThatGoesCostsNoAttempt) {
  for (int i = 1; i <= 5; ++i) {
    const int64_t worker = Attach(1);
    if (i == 1) Ask("b1");
    EXPECT_THAT(Show(broker_.Detach(worker, now_)), IsEmpty()) << i;
  }
  Attach(0);
  EXPECT_THAT(Credit(6, 1), ElementsAre("6 gets jobs/a/b1 6"));
}

TEST_F(BrokerTest, AJobWithoutWorkerIsToldOfOnceAfterItsGrace) {
  EXPECT_THAT(Ask("b1"), IsEmpty());
  EXPECT_EQ(broker_.NextDeadline(), now_ + absl::Seconds(30));
  EXPECT_THAT(Later(29), IsEmpty());
  EXPECT_THAT(Later(1), ElementsAre("jobs/a has no worker"));
  EXPECT_THAT(Later(100), IsEmpty());
  const int64_t worker = Attach(0);
  Later(100);
  EXPECT_THAT(Later(100), IsEmpty()) << "somebody is there, if busy";
  broker_.Detach(worker, now_);
  EXPECT_THAT(Later(30), ElementsAre("jobs/a has no worker"));
}

TEST_F(BrokerTest, AWorkerForAnotherJobOrRewardIsNoWorker) {
  Attach(5, {"r"}, "jobs/b");
  Attach(5, {"s"});
  EXPECT_THAT(Ask("b1"), IsEmpty());
  EXPECT_THAT(Later(30), ElementsAre("jobs/a has no worker"));
}

TEST_F(BrokerTest, AForgottenJobTakesItsLeasesBack) {
  const int64_t worker = Attach(1);
  Ask("b1");
  Ask("b2");
  EXPECT_THAT(Show(broker_.Forget("jobs/a")), ElementsAre("1 loses jobs/a/b1 1"));
  EXPECT_THAT(Result(worker, "jobs/a/b1", 1), IsEmpty());
  EXPECT_THAT(Credit(worker, 1), IsEmpty());
  EXPECT_THAT(Ask("b1"), ElementsAre("1 gets jobs/a/b1 1")) << "asked anew by the next attempt";
}

TEST_F(BrokerTest, ATrialThatNobodyTakesEnds) {
  Attach(0);
  EXPECT_THAT(Ask("trial/1", ""), IsEmpty());
  EXPECT_THAT(Later(30), ElementsAre(HasSubstr("have no credit")));
}

TEST_F(BrokerTest, SaysWhatIsWrongWithAMessage) {
  EXPECT_THAT(std::string(broker_.Attach({}).status().message()), HasSubstr("reward_names: is empty"));
  const int64_t worker = Attach(1);
  EXPECT_THAT(Credit(worker, 0), ElementsAre(HasSubstr("at least 1")));
  EXPECT_THAT(Say(worker, {}), ElementsAre(HasSubstr("after hello")));
}

// Whatever workers do, every batch is answered exactly once.
TEST_F(BrokerTest, EveryBatchIsAnsweredOnceUnderRandomEvents) {
  std::mt19937 random(7);
  std::map<std::string, int> answers;
  std::vector<int64_t> workers = {Attach(3), Attach(3)};
  std::vector<std::tuple<int64_t, std::string, int64_t>> leases;
  const auto take = [&](const Actions& actions) {
    for (const Action& action : actions) {
      if (const auto* send = std::get_if<Send>(&action); send != nullptr && send->message.has_batch()) {
        leases.push_back({send->worker, send->message.batch().batch_id(), send->message.batch().lease_epoch()});
      } else if (const auto* answer = std::get_if<Answer>(&action)) {
        ++answers[answer->batch_id];
      }
    }
  };
  const auto say = [&](int64_t worker, const v1::RewardWorkerMessage& message) {
    auto actions = broker_.Message(worker, message, now_);
    if (actions.ok()) take(*actions);
  };
  constexpr int kBatches = 60;
  int asked = 0;
  for (int turn = 0; turn < 5000 && answers.size() < kBatches; ++turn) {
    v1::RewardWorkerMessage message;
    const size_t w = random() % workers.size();
    switch (random() % 6) {
      case 0: {
        if (asked == kBatches) break;
        Question question;
        question.job = "jobs/a";
        question.batch_id = absl::StrCat("b", asked++);
        question.reward_names = {"r"};
        question.items.resize(1);
        take(broker_.Ask(std::move(question), now_));
        break;
      }
      case 1:
        message.mutable_credit()->set_batches(2);
        say(workers[w], message);
        break;
      case 2:
      case 3: {
        if (leases.empty()) break;
        const auto [worker, batch, epoch] = leases[random() % leases.size()];  // perhaps an old one
        message.mutable_result()->set_batch_id(batch);
        message.mutable_result()->set_lease_epoch(epoch);
        message.mutable_result()->add_scores()->set_reward_name("r");
        if (random() % 4 != 0) message.mutable_result()->mutable_scores(0)->add_values(1);
        say(worker, message);
        break;
      }
      case 4:
        now_ += absl::Seconds(random() % 20);
        take(broker_.Tick(now_));
        break;
      default:
        if (random() % 10 != 0) break;
        take(broker_.Detach(workers[w], now_));
        workers[w] = Attach(0);
    }
  }
  ASSERT_EQ(answers.size(), kBatches);
  for (const auto& [batch, count] : answers) EXPECT_EQ(count, 1) << batch;
}

}  // namespace
}  // namespace finetuned::rewards
