#include "server/supervisor/supervisor.h"

#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/supervisor/worker_log.h"
#include "server/supervisor/worker_process.h"

namespace finetuned::supervisor {
namespace {


using ::testing::HasSubstr;

constexpr absl::Duration kLimit = absl::Seconds(20);

// Keeps what the worker says and wakes whoever waits for it.
class Recorder : public WorkerEvents {
 public:
  void OnWorkerReady(int worker, const internal::v1::WorkerHello& hello) override {
    std::lock_guard lock(mutex_);
    ready_ = worker;
    pid_ = hello.pid();
    changed_.notify_all();
  }
  void OnWorkerMessage(int worker, internal::v1::WorkerMessage message) override {
    std::lock_guard lock(mutex_);
    messages_.push_back(std::move(message));
    changed_.notify_all();
  }
  void OnWorkerExit(int worker, const std::string& how, const std::string& log) override {
    std::lock_guard lock(mutex_);
    exited_ = worker;
    how_ = how;
    log_ = log;
    changed_.notify_all();
  }
  template <typename Condition>
  bool Wait(Condition condition) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, absl::ToChronoSeconds(kLimit), condition);
  }
  bool WaitReady(int worker) {
    return Wait([&] { return ready_ == worker; });
  }
  bool WaitExit(int worker) {
    return Wait([&] { return exited_ == worker; });
  }
  const internal::v1::WorkerFinished* WaitFinished() {
    const auto done = [&] { return !messages_.empty() && messages_.back().has_finished(); };
    return Wait(done) ? &messages_.back().finished() : nullptr;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  int ready_ = 0, exited_ = 0, pid_ = 0;
  std::string how_, log_;
  std::vector<internal::v1::WorkerMessage> messages_;
};

class SupervisorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/ftsvXXXXXX";
    dir_ = mkdtemp(name);
    layout_.state_dir = dir_;
    std::filesystem::create_directories(layout_.LogDir());
  }
  void TearDown() override {
    supervisor_.reset();
    std::filesystem::remove_all(dir_);
  }
  void Create(const std::string& mode = "", absl::Duration orphan_grace = absl::Milliseconds(300)) {
    SupervisorOptions options;
    options.layout = layout_;
    options.binary = FINETUNED_FAKE_WORKER;
    if (!mode.empty()) options.extra_arguments = {"--mode", mode};
    options.orphan_grace = orphan_grace;
    auto supervisor = Supervisor::Create(options, &events_);
    ASSERT_TRUE(supervisor.ok()) << supervisor.status();
    supervisor_ = *std::move(supervisor);
  }
  internal::v1::RunJob Job(const std::string& name) {
    internal::v1::RunJob run;
    run.set_job("jobs/" + name);
    run.set_attempt(1);
    run.set_state_dir(dir_ + "/job");
    return run;
  }
  void StartReady() {
    const int worker = supervisor_->Start();
    ASSERT_TRUE(events_.WaitReady(worker)) << events_.how_;
  }

  std::string dir_;
  store::Layout layout_;
  Recorder events_;
  std::unique_ptr<Supervisor> supervisor_;
};

TEST_F(SupervisorTest, WorkerRunsAJobAndStaysForTheNext) {
  Create();
  StartReady();
  for (int i = 0; i < 2; ++i) {
    events_.messages_.clear();
    supervisor_->Run(Job(absl::StrCat("finish-", i)));
    const auto* finished = events_.WaitFinished();
    ASSERT_NE(finished, nullptr);
    EXPECT_EQ(finished->outcome(), 0);
    supervisor_->Acknowledge(events_.messages_.back().sequence());
    std::filesystem::remove_all(dir_ + "/job");
  }
  EXPECT_EQ(events_.exited_, 0);
}

TEST_F(SupervisorTest, MessagesComeInOrder) {
  Create();
  StartReady();
  supervisor_->Run(Job("finish-1"));
  ASSERT_NE(events_.WaitFinished(), nullptr);
  for (size_t i = 0; i < events_.messages_.size(); ++i) {
    EXPECT_EQ(events_.messages_[i].sequence(), static_cast<int64_t>(i) + 2) << "1 is the hello";
  }
}

TEST_F(SupervisorTest, SignalsReachTheJob) {
  Create();
  StartReady();
  supervisor_->Run(Job("slow-1"));
  ASSERT_TRUE(events_.Wait([&] { return events_.messages_.size() > 5; }));
  internal::v1::JobSignal signal;
  signal.set_job("jobs/slow-1");
  signal.set_kind(internal::v1::JobSignal::LEAVE);
  supervisor_->Signal(signal);
  const auto* finished = events_.WaitFinished();
  ASSERT_NE(finished, nullptr);
  EXPECT_EQ(finished->outcome(), 75);
}

TEST_F(SupervisorTest, CrashIsToldWithSignalAndLastWords) {
  Create();
  StartReady();
  supervisor_->Run(Job("crash-1"));
  ASSERT_TRUE(events_.WaitExit(1));
  EXPECT_EQ(events_.how_, "was killed by signal 11 (Segmentation fault)");
  EXPECT_THAT(events_.log_, HasSubstr("illegal memory access"));
  // All it said before is there: the checkpoint of step 2 too.
  EXPECT_TRUE(std::any_of(events_.messages_.begin(), events_.messages_.end(), [](const auto& message) {
    return message.event().step().step() == 3;
  }));
}

TEST_F(SupervisorTest, NextWorkerStartsAfterACrash) {
  Create();
  StartReady();
  supervisor_->Run(Job("crash-1"));
  ASSERT_TRUE(events_.WaitExit(1));
  EXPECT_EQ(supervisor_->Start(), 2);
  EXPECT_TRUE(events_.WaitReady(2));
}

TEST_F(SupervisorTest, KillEndsAHangingWorker) {
  Create();
  StartReady();
  supervisor_->Run(Job("hang-1"));
  ASSERT_TRUE(events_.Wait([&] { return events_.messages_.size() > 3; }));
  supervisor_->Kill("gave no sign of life");
  ASSERT_TRUE(events_.WaitExit(1));
  EXPECT_EQ(events_.how_, "was killed by signal 9 (Killed)");
}

TEST_F(SupervisorTest, ShutdownEndsAnIdleWorker) {
  Create();
  StartReady();
  supervisor_->Shutdown();
  ASSERT_TRUE(events_.WaitExit(1));
  EXPECT_EQ(events_.how_, "ended with code 0");
}

TEST_F(SupervisorTest, WrongTokenIsNotAWorker) {
  Create("wrong-token");
  supervisor_->Start();
  ASSERT_TRUE(events_.WaitExit(1));
  EXPECT_EQ(events_.ready_, 0);
}

TEST_F(SupervisorTest, EarlyExitIsTold) {
  Create("exit");
  supervisor_->Start();
  ASSERT_TRUE(events_.WaitExit(1));
  EXPECT_EQ(events_.how_, "ended with code 3");
  EXPECT_THAT(events_.log_, HasSubstr("fake worker"));
}

TEST_F(SupervisorTest, MissingProgramIsTold) {
  SupervisorOptions options;
  options.layout = layout_;
  options.binary = dir_ + "/no-such-worker";
  supervisor_ = *Supervisor::Create(options, &events_);
  supervisor_->Start();
  ASSERT_TRUE(events_.WaitExit(1));
  EXPECT_EQ(events_.how_, "cannot be started: no-such-worker: No such file or directory");
}

TEST_F(SupervisorTest, ChildrenOfTheWorkerEndWithIt) {
  Create("child");
  StartReady();
  supervisor_->Kill("is part of a test");
  // The child holds the worker's output and its lock; neither keeps the end from being told.
  ASSERT_TRUE(events_.WaitExit(1));
  supervisor_->Start();
  EXPECT_TRUE(events_.WaitReady(2));
}

TEST_F(SupervisorTest, WorkerEndsWithItsSupervisor) {
  Create();
  StartReady();
  const pid_t pid = events_.pid_;
  supervisor_.reset();
  EXPECT_EQ(kill(pid, 0), -1) << "process " << pid << " still lives";
}

TEST_F(SupervisorTest, SocketIsForItsOwnerOnly) {
  Create();
  struct stat info;
  ASSERT_EQ(stat(layout_.WorkerSocket().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(SupervisorTest, TokenIsNotOnTheCommandLineOrInTheEnvironment) {
  Create("mute");
  supervisor_->Start();
  std::string pid;
  for (int i = 0; i < 200 && pid.empty(); ++i) {
    std::ifstream(layout_.WorkerLock()) >> pid;
    absl::SleepFor(absl::Milliseconds(20));
  }
  for (const char* file : {"cmdline", "environ"}) {
    std::ifstream in(absl::StrCat("/proc/", pid, "/", file));
    std::stringstream text;
    text << in.rdbuf();
    // 64 hexadecimal digits in a row.
    int run = 0, longest = 0;
    for (const char c : text.str()) longest = std::max(longest, run = isxdigit(c) ? run + 1 : 0);
    EXPECT_LT(longest, 64) << file;
  }
  supervisor_->Kill("is part of a test");
}

TEST_F(SupervisorTest, WorkerOfAnEarlierDaemonIsKilledBeforeANewOneStarts) {
  // A process that holds the lock as an orphaned worker would.
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t orphan = fork();
  if (orphan == 0) {
    setpgid(0, 0);
    auto lock = LockAgainstOrphan(layout_.WorkerLock(), absl::ZeroDuration());
    WriteLockOwner(*lock, getpid());
    if (write(ready[1], "x", 1) == 1) pause();
    _exit(0);
  }
  char c;
  ASSERT_EQ(read(ready[0], &c, 1), 1);
  Create();
  StartReady();
  int status = 0;
  EXPECT_EQ(waitpid(orphan, &status, WNOHANG), orphan);
  EXPECT_TRUE(WIFSIGNALED(status));
}

TEST(WorkerLog, IsRotatedAndKeepsItsTail) {
  const std::string dir = std::filesystem::path(::testing::TempDir()) / absl::StrCat("wlog-", getpid());
  std::filesystem::create_directories(dir);
  {
    WorkerLog log(dir + "/worker.log", 100, 2);
    for (int i = 0; i < 50; ++i) log.Append(absl::StrCat("line ", i, "\n"));
    const std::string tail = log.Tail();
    EXPECT_TRUE(absl::EndsWith(tail, "line 48\nline 49"));
    EXPECT_EQ(std::count(tail.begin(), tail.end(), '\n'), 19);
    log.ForgetTail();
    log.Append("unfinished");
    EXPECT_EQ(log.Tail(), "unfinished");
  }
  EXPECT_LE(std::filesystem::file_size(dir + "/worker.log"), 100u);
  EXPECT_TRUE(std::filesystem::exists(dir + "/worker.log.2"));
  EXPECT_FALSE(std::filesystem::exists(dir + "/worker.log.3"));
  std::filesystem::remove_all(dir);
}

TEST(RandomToken, Has256Bits) {
  EXPECT_EQ(RandomToken().size(), 64u);
  EXPECT_NE(RandomToken(), RandomToken());
}

}  // namespace
}  // namespace finetuned::supervisor
