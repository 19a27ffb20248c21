#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/jobs/job_manager.h"
#include "server/supervisor/supervisor.h"

namespace finetuned::jobs {

// A job manager with a real store and a real supervisor whose worker is fake_worker: what a job does
// follows from the first word of its name (finish, slow, crash, crashonce, hang, refuse, stubborn).
class ManagerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/ftjmXXXXXX";
    config_.state_dir = mkdtemp(name);
    config_.models.models["m"] = "/models/m.gguf";
    config_.worker.binary = FINETUNED_FAKE_WORKER;
    config_.worker.heartbeat_timeout = absl::Minutes(5);  // a busy machine is no hanging worker; who tests those sets it
    config_.worker.cancel_grace = absl::Milliseconds(300);
    config_.worker.prestart = false;
    config_.limits.min_free_disk_bytes = 0;
    Open();
    store::DatasetRecord dataset;
    dataset.dataset.set_name("datasets/d");
    dataset.dataset.set_sha256("abcd");
    ASSERT_TRUE(store_->PutDataset(dataset).ok());
  }
  void TearDown() override {
    Close();
    std::filesystem::remove_all(config_.state_dir);
  }

  // As when the daemon starts.
  void Open() {
    drained_ = false;
    metrics_ = std::make_unique<metrics::Metrics>(metrics::Metrics::Options{"t", config_.state_dir});
    store_ = *store::Store::Open({store::Layout{config_.state_dir}, nullptr});
    JobManager::Options options;
    options.config = &config_;
    options.version = "0.1.0";
    options.on_drained = [this] { drained_ = true; };
    manager_ = std::make_unique<JobManager>(options, store_.get(), metrics_.get());
    supervisor::SupervisorOptions supervise;
    supervise.layout = store_->layout();
    supervise.binary = config_.worker.binary;
    supervise.orphan_grace = absl::Milliseconds(100);
    supervisor_ = *supervisor::Supervisor::Create(supervise, manager_->worker_events());
    ASSERT_TRUE(manager_->Start(supervisor_.get()).ok());
  }
  // As when the daemon dies: nothing is asked to leave.
  void Close() {
    manager_->Stop();
    supervisor_.reset();
    manager_.reset();
    store_.reset();
  }

  static v1::Job Spec() {
    v1::Job job;
    job.mutable_spec()->set_base_model("models/m");
    job.mutable_spec()->set_dataset("datasets/d");
    job.mutable_spec()->mutable_sft();
    *job.mutable_resolved_spec() = job.spec();
    return job;
  }
  void Create(const std::string& id) {
    const auto job = manager_->CreateJob(Spec(), id, caller_);
    ASSERT_TRUE(job.ok()) << job.status();
  }
  v1::Job Get(const std::string& id) {
    auto job = manager_->GetJob("jobs/" + id);
    EXPECT_TRUE(job.ok()) << job.status();
    return job.ok() ? *job : v1::Job();
  }
  bool Wait(const std::function<bool()>& condition, absl::Duration limit = absl::Seconds(60)) {
    const absl::Time end = absl::Now() + limit;
    while (absl::Now() < end) {
      if (condition()) return true;
      absl::SleepFor(absl::Milliseconds(5));
    }
    return false;
  }
  bool WaitState(const std::string& id, v1::JobState state) {
    return Wait([&] { return Get(id).state() == state; });
  }
  bool WaitStep(const std::string& id, int64_t step) {
    return Wait([&] { return Get(id).progress().step() >= step; });
  }
  std::vector<v1::Event> Events(const std::string& id) {
    return *store_->ReadEvents(Get(id).uid(), 0, 100000);
  }
  // "queued preparing running ...", and a check that sequences have no gap.
  std::string States(const std::string& id) {
    std::string states;
    int64_t sequence = 0;
    for (const v1::Event& event : Events(id)) {
      EXPECT_EQ(event.sequence(), ++sequence);
      if (!event.has_state_changed()) continue;
      absl::StrAppend(&states, states.empty() ? "" : " ", queue::StateName(event.state_changed().to()));
    }
    return states;
  }

  config::Config config_;
  std::unique_ptr<metrics::Metrics> metrics_;
  std::unique_ptr<store::Store> store_;
  std::unique_ptr<JobManager> manager_;
  std::unique_ptr<supervisor::Supervisor> supervisor_;
  std::atomic<bool> drained_{false};
  Caller caller_{"uid:1", "", ""};
};

}  // namespace finetuned::jobs
