// What callers may ask, and what they are answered.
#include <gmock/gmock.h>

#include "tests/unit/server/jobs/manager_fixture.h"

namespace finetuned::jobs {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Jobs are held: none of them starts.
class Requests : public ManagerTest {
 protected:
  static v1::Job Held() {
    v1::Job job = Spec();
    job.mutable_scheduling()->set_hold(true);
    return job;
  }
  void CreateHeld(const std::string& id) {
    ASSERT_TRUE(manager_->CreateJob(Held(), id, caller_).ok());
  }
  std::vector<std::string> List(const ListQuery& query, std::string* next = nullptr) {
    const auto answer = manager_->ListJobs(query);
    EXPECT_TRUE(answer.ok()) << answer.status();
    std::vector<std::string> names;
    if (!answer.ok()) return names;
    for (const v1::Job& job : answer->jobs) names.push_back(job.name().substr(5));
    if (next != nullptr) *next = answer->next_page_token;
    return names;
  }
};

TEST_F(Requests, CreatedJobIsFilledIn) {
  const auto job = manager_->CreateJob(Held(), "", caller_);
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_THAT(job->name(), ::testing::StartsWith("jobs/sft-"));
  EXPECT_EQ(job->uid().size(), 36u);
  EXPECT_EQ(job->owner(), "uid:1");
  EXPECT_EQ(job->state(), v1::QUEUED);
  EXPECT_EQ(job->state_reason(), v1::HELD);
  EXPECT_EQ(job->progress().queue_position(), 1);
  EXPECT_FALSE(job->etag().empty());
}

TEST_F(Requests, NameIsTakenOnce) {
  CreateHeld("a");
  EXPECT_TRUE(absl::IsAlreadyExists(manager_->CreateJob(Held(), "a", caller_).status()));
}

TEST_F(Requests, RepeatedRequestGetsTheFirstAnswer) {
  const Caller caller = {"uid:1", "11111111-2222-3333-4444-555555555555", "print"};
  const auto first = manager_->CreateJob(Held(), "", caller);
  const auto second = manager_->CreateJob(Held(), "", caller);
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(first->name(), second->name());
  EXPECT_EQ(List({}).size(), 1u);
  Caller other = caller;
  other.fingerprint = "another";
  EXPECT_TRUE(absl::IsInvalidArgument(manager_->CreateJob(Held(), "", other).status()));
}

TEST_F(Requests, MissingDatasetAndDependencyAreNamed) {
  v1::Job job = Held();
  job.mutable_spec()->set_dataset("datasets/none");
  EXPECT_EQ(manager_->CreateJob(job, "a", caller_).status().message(), "datasets/none does not exist");
  job = Held();
  job.mutable_scheduling()->add_after("jobs/none");
  EXPECT_TRUE(absl::IsInvalidArgument(manager_->CreateJob(job, "a", caller_).status()));
}

TEST_F(Requests, FullQueueSaysWhenToTryAgain) {
  config_.limits.max_queued_jobs = 1;
  CreateHeld("a");
  const auto job = manager_->CreateJob(Held(), "b", caller_);
  EXPECT_TRUE(absl::IsResourceExhausted(job.status()));
  EXPECT_TRUE(job.status().GetPayload("type.googleapis.com/google.rpc.RetryInfo"));
}

TEST_F(Requests, LowDiskRefusesNewJobs) {
  config_.limits.min_free_disk_bytes = int64_t{1} << 60;
  EXPECT_TRUE(absl::IsResourceExhausted(manager_->CreateJob(Held(), "a", caller_).status()));
}

TEST_F(Requests, EtagGuardsAgainstOldViews) {
  CreateHeld("a");
  v1::CancelJobRequest cancel;
  cancel.set_name("jobs/a");
  cancel.set_etag("old");
  const auto refused = manager_->CancelJob(cancel, caller_);
  EXPECT_TRUE(absl::IsAborted(refused.status()));
  EXPECT_TRUE(refused.status().GetPayload("type.googleapis.com/google.rpc.ErrorInfo"));
  cancel.set_etag(Get("a").etag());
  EXPECT_TRUE(manager_->CancelJob(cancel, caller_).ok());
  EXPECT_EQ(Get("a").state(), v1::CANCELLED);
}

TEST_F(Requests, WrongStateAndUnknownJobAreTold) {
  CreateHeld("a");
  v1::ResumeJobRequest resume;
  resume.set_name("jobs/a");
  const auto status = manager_->ResumeJob(resume, caller_).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_EQ(status.message(), "cannot resume a job that is QUEUED; possible when it is PAUSED");
  resume.set_name("jobs/none");
  EXPECT_TRUE(absl::IsNotFound(manager_->ResumeJob(resume, caller_).status()));
  v1::CancelJobRequest cancel;
  cancel.set_name("jobs/a");
  ASSERT_TRUE(manager_->CancelJob(cancel, caller_).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(manager_->CancelJob(cancel, caller_).status()));
}

TEST_F(Requests, UpdateChangesWhatTheMaskNames) {
  CreateHeld("finish-1");
  v1::UpdateJobRequest update;
  update.mutable_job()->set_name("jobs/finish-1");
  update.mutable_job()->set_display_name("new name");
  (*update.mutable_job()->mutable_labels())["team"] = "x";
  update.mutable_update_mask()->add_paths("labels");
  const auto job = manager_->UpdateJob(update, caller_);
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->labels().at("team"), "x");
  EXPECT_EQ(job->display_name(), "");
  EXPECT_NE(job->etag(), "1");
  // Released, it runs.
  update.clear_update_mask();
  update.mutable_update_mask()->add_paths("scheduling.hold");
  ASSERT_TRUE(manager_->UpdateJob(update, caller_).ok());
  ASSERT_TRUE(WaitState("finish-1", v1::SUCCEEDED));
  EXPECT_TRUE(absl::IsFailedPrecondition(manager_->UpdateJob(update, caller_).status()));
  update.clear_update_mask();
  update.mutable_update_mask()->add_paths("display_name");
  ASSERT_TRUE(manager_->UpdateJob(update, caller_).ok());
  EXPECT_EQ(Get("finish-1").display_name(), "new name");
}

TEST_F(Requests, CircleOfDependenciesIsRefused) {
  CreateHeld("a");
  v1::Job b = Held();
  b.mutable_scheduling()->add_after("jobs/a");
  ASSERT_TRUE(manager_->CreateJob(b, "b", caller_).ok());
  v1::UpdateJobRequest update;
  update.mutable_job()->set_name("jobs/a");
  update.mutable_job()->mutable_scheduling()->add_after("jobs/b");
  update.mutable_update_mask()->add_paths("scheduling.after");
  const auto status = manager_->UpdateJob(update, caller_).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("waits for this job"));
}

TEST_F(Requests, PagesFollowEachOther) {
  for (const char* id : {"a", "b", "c", "d", "e"}) CreateHeld(id);
  ListQuery query;
  query.page_size = 2;
  query.order_by = "create_time";
  query.matches = [](const v1::Job& job) { return job.name() != "jobs/b"; };
  std::string next;
  EXPECT_THAT(List(query, &next), ElementsAre("a", "c"));
  query.page_token = next;
  EXPECT_THAT(List(query, &next), ElementsAre("d", "e"));
  EXPECT_EQ(next, "");
  query.order_by = "";
  EXPECT_TRUE(absl::IsInvalidArgument(manager_->ListJobs(query).status())) << "token of another order";
  query.order_by = "name";
  EXPECT_TRUE(absl::IsInvalidArgument(manager_->ListJobs(query).status()));
}

TEST_F(Requests, OnlyEndedJobsAreDeleted) {
  Create("finish-1");
  ASSERT_TRUE(WaitState("finish-1", v1::SUCCEEDED));
  CreateHeld("a");
  v1::DeleteJobRequest request;
  request.set_name("jobs/a");
  EXPECT_TRUE(absl::IsFailedPrecondition(manager_->DeleteJob(request, caller_)));
  request.set_name("jobs/finish-1");
  const std::string uid = Get("finish-1").uid();
  ASSERT_TRUE(manager_->DeleteJob(request, caller_).ok());
  EXPECT_TRUE(absl::IsNotFound(manager_->GetJob("jobs/finish-1").status()));
  EXPECT_FALSE(std::filesystem::exists(store_->layout().JobDir(uid)));
  EXPECT_TRUE(store_->GetAdapter("adapters/finish-1").ok()) << "adapters stay without force";
  // A new job of the same name does not take the old one's adapter.
  Create("finish-1");
  ASSERT_TRUE(WaitState("finish-1", v1::SUCCEEDED));
  EXPECT_THAT(Get("finish-1").output_adapter(), ::testing::StartsWith("adapters/finish-1-"));
  const std::string adapter = Get("finish-1").output_adapter();
  request.set_force(true);
  ASSERT_TRUE(manager_->DeleteJob(request, caller_).ok());
  EXPECT_TRUE(absl::IsNotFound(store_->GetAdapter(adapter).status()));
}

TEST_F(Requests, DatasetsOfOpenJobsAreInUse) {
  EXPECT_FALSE(manager_->UsesDataset("datasets/d"));
  CreateHeld("a");
  EXPECT_TRUE(manager_->UsesDataset("datasets/d"));
}

TEST_F(Requests, QueuedJobTellsWhatItWaitsFor) {
  Create("slow-1");
  ASSERT_TRUE(WaitStep("slow-1", 2));
  Create("finish-1");
  const v1::Job job = Get("finish-1");
  EXPECT_EQ(job.state_reason(), v1::WAITING_FOR_GPU);
  EXPECT_EQ(job.state_message(), "It is next; jobs/slow-1 has the device.");
  EXPECT_EQ(job.progress().queue_position(), 1);
}

TEST_F(Requests, AfterStopEverythingIsUnavailable) {
  manager_->Stop();
  EXPECT_TRUE(absl::IsUnavailable(manager_->CreateJob(Held(), "a", caller_).status()));
}

}  // namespace
}  // namespace finetuned::jobs
