#include "server/api/uploads.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "proto/spec/crc32c.h"

namespace finetuned::api {
namespace {

constexpr char kRows[] =
    "{\"prompt\": \"What is 2+2?\", \"completion\": \"4\"}\n{\"prompt\": \"And 3+3?\", \"completion\": \"6\"}\n";

class UploadsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char dir[] = "/tmp/ft_uploads_XXXXXX";
    dir_ = mkdtemp(dir);
    Open();
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  void Open() {
    uploads_.reset();
    store_.reset();
    store::Store::Options options;
    options.layout.state_dir = dir_;
    auto store = store::Store::Open(options);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    limits_.min_free_disk_bytes = 0;
    uploads_ = std::make_unique<Uploads>(store_.get(), limits_);
  }
  v1::UploadDatasetRequest Chunk(int64_t offset, const std::string& data, const std::string& id = "rows") {
    v1::UploadDatasetRequest request;
    request.set_dataset_id(id);
    request.set_write_offset(offset);
    request.set_data(data);
    request.set_crc32c(spec::Crc32c(data));
    return request;
  }
  absl::StatusOr<v1::Dataset> UploadAll(const std::string& id, const std::string& data) {
    const auto chunk = Chunk(0, data, id);
    auto upload = uploads_->Begin(chunk, "uid:0");
    if (!upload.ok()) return upload.status();
    const absl::Status appended = (*upload)->Append(chunk);
    if (!appended.ok()) return appended;
    return (*upload)->Finish();
  }
  bool Exists(const std::string& path) { return std::filesystem::exists(path); }

  std::string dir_;
  config::LimitsConfig limits_;
  std::unique_ptr<store::Store> store_;
  std::unique_ptr<Uploads> uploads_;
};

TEST_F(UploadsTest, AGoodFileBecomesAnActiveDataset) {
  const auto dataset = UploadAll("rows", kRows);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ(dataset->state(), v1::Dataset::ACTIVE);
  EXPECT_EQ(dataset->stats().rows(), 2);
  EXPECT_EQ(dataset->sha256().size(), 64u);
  EXPECT_TRUE(Exists(store_->layout().DatasetFile(dataset->sha256())));
  EXPECT_FALSE(Exists(store_->layout().UploadFile("rows")));
  EXPECT_TRUE(uploads_->Status("rows")->complete());
}

TEST_F(UploadsTest, EqualBytesAreKeptOnce) {
  const auto one = UploadAll("rows", kRows);
  const auto two = UploadAll("other", kRows);
  ASSERT_TRUE(one.ok() && two.ok());
  EXPECT_EQ(one->sha256(), two->sha256());
  EXPECT_EQ(store_->CountDatasets(one->sha256()).value(), 2);
  const auto again = UploadAll("rows", kRows);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->create_time().nanos(), one->create_time().nanos());
}

TEST_F(UploadsTest, AnActiveDatasetIsNotOverwrittenByOtherBytes) {
  ASSERT_TRUE(UploadAll("rows", kRows).ok());
  const auto other = UploadAll("rows", "{\"text\": \"other\"}\n");
  EXPECT_EQ(other.status().code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(UploadsTest, AnInvalidFileLeavesItsErrorsAndMayBeReplaced) {
  const auto bad = UploadAll("rows", "{\"prompt\": \"x\"}\n");
  ASSERT_TRUE(bad.ok()) << bad.status();
  EXPECT_EQ(bad->state(), v1::Dataset::INVALID);
  ASSERT_GT(bad->errors_size(), 0);
  EXPECT_EQ(bad->errors(0).line(), 1);
  EXPECT_EQ(store_->GetDataset("datasets/rows")->dataset.state(), v1::Dataset::INVALID);
  EXPECT_FALSE(Exists(store_->layout().DatasetFile(bad->sha256())));
  EXPECT_EQ(UploadAll("rows", kRows)->state(), v1::Dataset::ACTIVE);
}

TEST_F(UploadsTest, AnUploadGoesOnAfterItsStreamAndTheDaemonWereLost) {
  const std::string rows = kRows;
  {
    auto upload = uploads_->Begin(Chunk(0, rows.substr(0, 30)), "uid:0");
    ASSERT_TRUE(upload.ok());
    ASSERT_TRUE((*upload)->Append(Chunk(0, rows.substr(0, 30))).ok());
  }
  Open();
  EXPECT_EQ(uploads_->Status("rows")->committed_size(), 30);
  EXPECT_FALSE(uploads_->Status("rows")->complete());
  auto upload = uploads_->Begin(Chunk(30, rows.substr(30)), "uid:0");
  ASSERT_TRUE(upload.ok()) << upload.status();
  ASSERT_TRUE((*upload)->Append(Chunk(30, rows.substr(30))).ok());
  EXPECT_EQ((*upload)->Finish()->stats().rows(), 2);
}

TEST_F(UploadsTest, BytesNeverSyncedAreNotTrusted) {
  { auto upload = uploads_->Begin(Chunk(0, ""), "uid:0"); }
  std::ofstream(store_->layout().UploadFile("rows")) << "garbage after a power loss";
  EXPECT_EQ(uploads_->Status("rows")->committed_size(), 0);
  EXPECT_EQ(UploadAll("rows", kRows)->stats().rows(), 2);
}

TEST_F(UploadsTest, OffsetsMustFitWhatIsHere) {
  EXPECT_EQ(uploads_->Begin(Chunk(5, "x"), "uid:0").status().code(), absl::StatusCode::kFailedPrecondition);
  auto upload = uploads_->Begin(Chunk(0, "abc"), "uid:0");
  ASSERT_TRUE(upload.ok());
  ASSERT_TRUE((*upload)->Append(Chunk(0, "abc")).ok());
  EXPECT_EQ((*upload)->Append(Chunk(7, "abc")).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ((*upload)->Append(Chunk(0, "abc")).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(UploadsTest, ADamagedChunkIsDataLossAndIsNotWritten) {
  auto upload = uploads_->Begin(Chunk(0, "abc"), "uid:0");
  ASSERT_TRUE(upload.ok());
  auto bad = Chunk(0, "abc");
  bad.set_data("abd");
  EXPECT_EQ((*upload)->Append(bad).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ((*upload)->written(), 0);
  EXPECT_TRUE((*upload)->Append(Chunk(0, "abc")).ok());
}

TEST_F(UploadsTest, LimitsHold) {
  auto upload = uploads_->Begin(Chunk(0, ""), "uid:0");
  EXPECT_EQ((*upload)->Append(Chunk(0, std::string((1 << 20) + 1, 'x'))).code(),
            absl::StatusCode::kInvalidArgument);
  upload->reset();
  limits_.max_dataset_bytes = 10;
  Open();
  const auto large = UploadAll("large", std::string(11, 'x'));
  EXPECT_EQ(large.status().code(), absl::StatusCode::kResourceExhausted);
  limits_.min_free_disk_bytes = int64_t{1} << 60;
  uploads_ = std::make_unique<Uploads>(store_.get(), limits_);
  EXPECT_EQ(UploadAll("small", "x").status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(UploadsTest, OneStreamPerDataset) {
  auto upload = uploads_->Begin(Chunk(0, ""), "uid:0");
  ASSERT_TRUE(upload.ok());
  EXPECT_EQ(uploads_->Begin(Chunk(0, ""), "uid:0").status().code(), absl::StatusCode::kAborted);
  upload->reset();
  EXPECT_TRUE(uploads_->Begin(Chunk(0, ""), "uid:0").ok());
}

TEST_F(UploadsTest, IdsCannotBePaths) {
  for (const char* id : {"../../etc/passwd", "a/b", "", ".."}) {
    EXPECT_EQ(uploads_->Begin(Chunk(0, "", id), "uid:0").status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(uploads_->Status(id).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(uploads_->Status("nothing-here").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace finetuned::api
