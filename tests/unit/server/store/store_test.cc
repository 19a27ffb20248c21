#include "server/store/store.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace finetuned::store {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class StoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = std::filesystem::path(::testing::TempDir()) /
           absl::StrCat("store-", getpid(), "-", ::testing::UnitTest::GetInstance()->current_test_info()->name());
    Open();
  }
  void TearDown() override {
    store_.reset();
    std::filesystem::remove_all(dir_);
  }
  void Open() {
    store_.reset();
    auto store = Store::Open({Layout{dir_.string()}, [this](double) { ++syncs_; }});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  static JobRecord NewJob(const std::string& id, int64_t time = 1, int priority = 0) {
    JobRecord record;
    record.job.set_name("jobs/" + id);
    record.job.set_uid("uid-" + id);
    record.job.set_state(v1::QUEUED);
    record.job.mutable_spec()->mutable_sft();
    record.job.mutable_create_time()->set_seconds(time);
    record.job.mutable_scheduling()->set_priority(priority);
    return record;
  }
  static v1::Event Step(int64_t step, int attempt, double loss) {
    v1::Event event;
    event.set_attempt(attempt);
    event.mutable_metrics()->set_step(step);
    (*event.mutable_metrics()->mutable_values())["loss"] = loss;
    return event;
  }
  absl::Status Put(const JobRecord& job, std::vector<v1::Event> events = {}) {
    WriteBatch batch;
    batch.jobs.push_back(job);
    for (v1::Event& event : events) batch.events.push_back({job.job.uid(), std::move(event)});
    return store_->Commit(&batch);
  }

  std::filesystem::path dir_;
  std::unique_ptr<Store> store_;
  int syncs_ = 0;
};

TEST_F(StoreTest, JobComesBackAfterReopening) {
  JobRecord job = NewJob("a");
  job.front = true;
  job.crashes = 2;
  job.queue_order = 77;
  ASSERT_TRUE(Put(job, {Step(1, 1, 2.5)}).ok());
  Open();
  const auto found = store_->GetJob("jobs/a");
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->job.SerializeAsString(), job.job.SerializeAsString());
  EXPECT_TRUE(found->front);
  EXPECT_EQ(found->crashes, 2);
  EXPECT_EQ(found->queue_order, 77);
  EXPECT_EQ(found->last_sequence, 1);
}

TEST_F(StoreTest, FilesAreForTheirOwnerOnly) {
  struct stat info;
  ASSERT_EQ(stat(store_->layout().Database().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  ASSERT_EQ(stat(store_->layout().JobsDir().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
}

TEST_F(StoreTest, SequencesHaveNoGapPerJob) {
  ASSERT_TRUE(Put(NewJob("a"), {Step(1, 1, 1), Step(2, 1, 1)}).ok());
  ASSERT_TRUE(Put(NewJob("b"), {Step(1, 1, 1)}).ok());
  ASSERT_TRUE(Put(NewJob("a"), {Step(3, 1, 1)}).ok());
  const auto events = store_->ReadEvents("uid-a", 0, 100);
  ASSERT_TRUE(events.ok());
  std::vector<int64_t> sequences;
  for (const v1::Event& event : *events) sequences.push_back(event.sequence());
  EXPECT_THAT(sequences, ElementsAre(1, 2, 3));
  EXPECT_EQ(events->back().name(), "jobs/a/events/3");
  EXPECT_EQ(*store_->LastSequence("uid-b"), 1);
}

TEST_F(StoreTest, FailedCommitStoresNothingOfIt) {
  ASSERT_TRUE(Put(NewJob("a"), {Step(1, 1, 1)}).ok());
  JobRecord changed = NewJob("a");
  changed.job.set_state(v1::RUNNING);
  WriteBatch batch;
  batch.jobs.push_back(changed);
  batch.events.push_back({"uid-a", Step(2, 1, 1)});
  batch.events.push_back({"uid-of-nobody", Step(1, 1, 1)});
  EXPECT_TRUE(absl::IsNotFound(store_->Commit(&batch)));
  EXPECT_EQ(store_->GetJob("jobs/a")->job.state(), v1::QUEUED);
  EXPECT_EQ(*store_->LastSequence("uid-a"), 1);
  // The next event takes the number the failed one did not get.
  ASSERT_TRUE(Put(NewJob("a"), {Step(2, 1, 1)}).ok());
  EXPECT_EQ(*store_->LastSequence("uid-a"), 2);
}

TEST_F(StoreTest, FullDiskIsToldAndTheLastGoodStateStays) {
  ASSERT_TRUE(Put(NewJob("a"), {Step(1, 1, 1)}).ok());
  signal(SIGXFSZ, SIG_IGN);
  rlimit old;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  rlimit tight = old;
  tight.rlim_cur = std::filesystem::file_size(store_->layout().Database() + "-wal") + 8192;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &tight), 0);
  JobRecord large = NewJob("b");
  large.job.set_display_name(std::string(1 << 20, 'x'));
  const absl::Status status = Put(large, {Step(1, 1, 1)});
  setrlimit(RLIMIT_FSIZE, &old);
  EXPECT_TRUE(absl::IsResourceExhausted(status) || absl::IsUnavailable(status)) << status;
  EXPECT_TRUE(absl::IsNotFound(store_->GetJob("jobs/b").status()));
  EXPECT_TRUE(store_->GetJob("jobs/a").ok());
  EXPECT_TRUE(Put(large, {Step(1, 1, 1)}).ok());
  EXPECT_TRUE(store_->GetJob("jobs/b").ok());
}

TEST_F(StoreTest, MetricsOfAStepAreThoseOfTheNewestAttempt) {
  v1::Event eval;
  eval.set_attempt(1);
  eval.mutable_eval()->set_step(2);
  (*eval.mutable_eval()->mutable_values())["eval_loss"] = 0.5;
  ASSERT_TRUE(Put(NewJob("a"), {Step(1, 1, 9), Step(2, 1, 8), eval, Step(3, 1, 7), Step(2, 2, 6)}).ok());
  const auto samples = store_->QueryMetrics("uid-a", 0, 0);
  ASSERT_TRUE(samples.ok());
  ASSERT_EQ(samples->size(), 3u);
  EXPECT_EQ((*samples)[1].step, 2);
  EXPECT_EQ((*samples)[1].attempt, 2);
  EXPECT_EQ((*samples)[1].values.at("loss"), 6);
  EXPECT_EQ((*samples)[1].values.at("eval_loss"), 0.5);
  EXPECT_EQ((*samples)[2].values.at("loss"), 7);
  EXPECT_EQ(store_->QueryMetrics("uid-a", 2, 2)->size(), 1u);
}

TEST_F(StoreTest, EventsAreReadByKindAndPosition) {
  v1::Event state;
  state.mutable_state_changed()->set_to(v1::QUEUED);
  ASSERT_TRUE(Put(NewJob("a"), {state, Step(1, 1, 1), state, Step(2, 1, 1)}).ok());
  EXPECT_EQ(store_->ReadEvents("uid-a", 1, 2)->size(), 2u);
  const auto states = store_->ReadEvents("uid-a", 0, 10, v1::Event::kStateChanged);
  ASSERT_EQ(states->size(), 2u);
  EXPECT_EQ((*states)[1].sequence(), 3);
}

TEST_F(StoreTest, ListingGoesOnWhereItStopped) {
  for (int i = 1; i <= 5; ++i) ASSERT_TRUE(Put(NewJob(absl::StrCat("j", i), i, i % 2)).ok());
  const auto names = [](const JobPage& page) {
    std::vector<std::string> names;
    for (const JobRecord& record : page.jobs) names.push_back(record.job.name().substr(5));
    return names;
  };
  const auto first = store_->ListJobs(JobOrder::kCreateTimeDescending, std::nullopt, 2);
  EXPECT_THAT(names(*first), ElementsAre("j5", "j4"));
  const auto second = store_->ListJobs(JobOrder::kCreateTimeDescending, first->cursors.back(), 9);
  EXPECT_THAT(names(*second), ElementsAre("j3", "j2", "j1"));
  EXPECT_THAT(names(*store_->ListJobs(JobOrder::kCreateTime, std::nullopt, 2)), ElementsAre("j1", "j2"));
  const auto urgent = store_->ListJobs(JobOrder::kPriorityDescending, std::nullopt, 4);
  EXPECT_THAT(names(*urgent), ElementsAre("j5", "j3", "j1", "j4"));
}

TEST_F(StoreTest, ListingPassesOverWhatItsFilterLeavesOut) {
  WriteBatch batch;
  for (int i = 1; i <= 404; ++i) {
    batch.jobs.push_back(NewJob(absl::StrCat("j", i), i));
    if (i == 101 || i == 303) batch.jobs.back().job.set_state(v1::FAILED);
  }
  ASSERT_TRUE(store_->Commit(&batch).ok());
  for (const JobOrder order : {JobOrder::kCreateTimeDescending, JobOrder::kCreateTime, JobOrder::kPriorityDescending}) {
    const auto failed = store_->ListJobs(order, std::nullopt, 9, {v1::FAILED, ""});
    ASSERT_EQ(failed->jobs.size(), 2u);
    const bool ascending = order == JobOrder::kCreateTime;
    EXPECT_EQ(failed->jobs[0].job.name(), ascending ? "jobs/j101" : "jobs/j303");
    EXPECT_EQ(store_->ListJobs(order, failed->cursors[0], 9, {v1::FAILED, "sft"})->jobs.size(), 1u);
    EXPECT_TRUE(store_->ListJobs(order, std::nullopt, 9, {v1::FAILED, "dpo"})->jobs.empty());
    const v1::JobState usual = NewJob("x").job.state();
    std::optional<JobCursor> after;
    for (int left = 402; left > 0; left -= 67) {  // a state that is not rare
      const auto page = store_->ListJobs(order, after, 67, {usual, ""});
      ASSERT_EQ(page->jobs.size(), 67u);
      after = page->cursors.back();
    }
    EXPECT_TRUE(store_->ListJobs(order, after, 67, {usual, ""})->jobs.empty());
  }
}

TEST_F(StoreTest, UnfinishedJobsLeaveOutTheEnded) {
  JobRecord done = NewJob("done");
  done.job.set_state(v1::SUCCEEDED);
  ASSERT_TRUE(Put(done).ok());
  ASSERT_TRUE(Put(NewJob("open")).ok());
  const auto jobs = store_->UnfinishedJobs();
  ASSERT_EQ(jobs->size(), 1u);
  EXPECT_EQ((*jobs)[0].job.name(), "jobs/open");
  EXPECT_EQ(*store_->CountJobs(v1::SUCCEEDED, "sft"), 1);
}

TEST_F(StoreTest, DeletedJobTakesEventsAndCheckpointsAlong) {
  ASSERT_TRUE(Put(NewJob("a"), {Step(1, 1, 1)}).ok());
  WriteBatch batch;
  CheckpointRecord checkpoint;
  checkpoint.uid = "uid-a";
  checkpoint.checkpoint.set_step(1);
  batch.checkpoints.push_back(checkpoint);
  ASSERT_TRUE(store_->Commit(&batch).ok());
  EXPECT_EQ(store_->ListCheckpoints("uid-a")->size(), 1u);
  ASSERT_TRUE(store_->DeleteJob("uid-a").ok());
  EXPECT_TRUE(store_->ReadEvents("uid-a", 0, 10)->empty());
  EXPECT_TRUE(store_->ListCheckpoints("uid-a")->empty());
  EXPECT_TRUE(absl::IsNotFound(store_->GetJob("jobs/a").status()));
}

TEST_F(StoreTest, DatasetsAdaptersAndUploadsRoundTrip) {
  DatasetRecord dataset;
  dataset.dataset.set_name("datasets/d");
  dataset.dataset.set_sha256("ab");
  dataset.owner = "uid:1";
  ASSERT_TRUE(store_->PutDataset(dataset).ok());
  EXPECT_EQ(store_->GetDataset("datasets/d")->owner, "uid:1");
  EXPECT_EQ(*store_->CountDatasets("ab"), 1);
  EXPECT_EQ(store_->ListDatasets("datasets/c", 5)->size(), 1u);
  EXPECT_TRUE(store_->ListDatasets("datasets/d", 5)->empty());
  ASSERT_TRUE(store_->DeleteDataset("datasets/d").ok());
  EXPECT_TRUE(absl::IsNotFound(store_->DeleteDataset("datasets/d")));

  ASSERT_TRUE(store_->PutUpload({"d", "sft", "uid:1", 4096, absl::FromUnixSeconds(5)}).ok());
  EXPECT_EQ(store_->GetUpload("d")->committed, 4096);
  EXPECT_EQ(store_->GetUpload("d")->update_time, absl::FromUnixSeconds(5));

  WriteBatch batch;
  AdapterRecord adapter;
  adapter.adapter.set_name("adapters/a");
  adapter.directory = "/x";
  batch.adapters.push_back(adapter);
  ASSERT_TRUE(store_->Commit(&batch).ok());
  EXPECT_EQ(store_->GetAdapter("adapters/a")->directory, "/x");
}

TEST_F(StoreTest, RepeatedRequestGetsItsAnswerForADay) {
  const RequestRecord request = {"uid:1", "id", "CreateJob", "print", "answer", absl::Now()};
  ASSERT_TRUE(store_->PutRequest(request).ok());
  EXPECT_EQ(store_->FindRequest("uid:1", "id", "CreateJob", "print")->response, "answer");
  EXPECT_TRUE(absl::IsNotFound(store_->FindRequest("uid:2", "id", "CreateJob", "print").status()));
  const auto other = store_->FindRequest("uid:1", "id", "CreateJob", "another");
  EXPECT_TRUE(absl::IsInvalidArgument(other.status()));
  RequestRecord old = request;
  old.time = absl::Now() - absl::Hours(25);
  ASSERT_TRUE(store_->PutRequest(old).ok());
  EXPECT_TRUE(absl::IsNotFound(store_->FindRequest("uid:1", "id", "CreateJob", "print").status()));
  ASSERT_TRUE(store_->ForgetRequests(absl::Now() - absl::Hours(24)).ok());
}

TEST_F(StoreTest, NewerDatabaseIsRefused) {
  store_.reset();
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(Layout{dir_.string()}.Database().c_str(), &db), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(db, "PRAGMA user_version=99", nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(db);
  const auto store = Store::Open({Layout{dir_.string()}, nullptr});
  EXPECT_TRUE(absl::IsFailedPrecondition(store.status()));
  EXPECT_THAT(std::string(store.status().message()), HasSubstr("version 99"));
}

TEST_F(StoreTest, EachCommitIsSyncedOnce) {
  syncs_ = 0;
  ASSERT_TRUE(Put(NewJob("a"), {Step(1, 1, 1), Step(2, 1, 1)}).ok());
  EXPECT_EQ(syncs_, 1);
}

TEST(Fingerprint, DependsOnContentOnly) {
  v1::Job a, b;
  for (int i = 0; i < 20; ++i) (*a.mutable_labels())[absl::StrCat(i)] = "x";
  for (int i = 19; i >= 0; --i) (*b.mutable_labels())[absl::StrCat(i)] = "x";
  EXPECT_EQ(Fingerprint(a), Fingerprint(b));
  (*b.mutable_labels())["0"] = "y";
  EXPECT_NE(Fingerprint(a), Fingerprint(b));
}

TEST_F(StoreTest, FilesWithoutARowAreRemovedAndOthersStay) {
  const Layout layout{dir_.string()};
  const auto make = [](const std::string& path) {
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream(path) << "x";
    return path;
  };
  ASSERT_TRUE(Put(NewJob("a")).ok());
  ASSERT_TRUE(store_->PutUpload({"half", "sft", "me", 1, absl::Now()}).ok());
  DatasetRecord dataset;
  dataset.dataset.set_name("datasets/d");
  dataset.dataset.set_sha256("abcd");
  ASSERT_TRUE(store_->PutDataset(dataset).ok());
  WriteBatch batch;
  AdapterRecord adapter;
  adapter.adapter.set_name("adapters/old");
  adapter.directory = layout.AdapterDir("uid-gone");  // its job was deleted
  batch.adapters.push_back(adapter);
  ASSERT_TRUE(store_->Commit(&batch).ok());
  const std::vector<std::string> kept = {
      make(layout.JobDir("uid-a") + "/checkpoints/1"), make(layout.AdapterDir("uid-a") + "/taken"),
      make(layout.AdapterDir("uid-gone") + "/weights"), make(layout.DatasetFile("abcd")), make(layout.UploadFile("half"))};
  const std::vector<std::string> gone = {make(layout.JobDir("uid-b") + "/checkpoints/1"),
                                         make(layout.AdapterDir("uid-b") + "/weights"), make(layout.DatasetFile("ef01")),
                                         make(layout.UploadFile("forgotten"))};
  ASSERT_TRUE(store_->RemoveOrphans().ok());
  for (const std::string& path : kept) EXPECT_TRUE(std::filesystem::exists(path)) << path;
  for (const std::string& path : gone) EXPECT_FALSE(std::filesystem::exists(path)) << path;
}

// A state directory of each version of the schema that was ever released (tests/golden/state) is opened as it is now.
TEST_F(StoreTest, EveryReleasedVersionIsOpened) {
  const std::filesystem::path golden = std::filesystem::path(FINETUNED_SOURCE_DIR) / "tests/golden/state";
  for (int version = 1; version <= kSchemaVersion; ++version) {
    SCOPED_TRACE(absl::StrCat("v", version));
    store_.reset();
    std::filesystem::remove_all(dir_);
    std::filesystem::copy(golden / absl::StrCat("v", version), dir_, std::filesystem::copy_options::recursive);
    Open();
    ASSERT_NE(store_, nullptr);
    const auto finished = store_->GetJob("jobs/finish-1");
    ASSERT_TRUE(finished.ok()) << finished.status();
    EXPECT_EQ(finished->job.state(), v1::SUCCEEDED);
    EXPECT_EQ(*store_->CountJobs(v1::FAILED, "sft"), 1);
    const auto open = store_->UnfinishedJobs();
    ASSERT_EQ(open->size(), 2u);
    EXPECT_EQ((*open)[0].job.state(), v1::PAUSED);
    EXPECT_EQ((*open)[1].job.scheduling().priority(), 3);
    EXPECT_FALSE(store_->ListCheckpoints((*open)[0].job.uid())->empty());
    const auto events = store_->ReadEvents(finished->job.uid(), 0, 1000);
    EXPECT_EQ(static_cast<int64_t>(events->size()), finished->last_sequence);
    EXPECT_EQ(store_->GetAdapter("adapters/finish-1")->adapter.files_size(), 2);
    const auto dataset = store_->GetDataset("datasets/rows");
    ASSERT_TRUE(dataset.ok());
    EXPECT_TRUE(std::filesystem::exists(store_->layout().DatasetFile(dataset->dataset.sha256())));
    // And it can be written.
    EXPECT_TRUE(Put(NewJob("new")).ok());
  }
}

}  // namespace
}  // namespace finetuned::store
