#include "server/api/datasets_service.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "api_testing.h"
#include "proto/spec/crc32c.h"

namespace finetuned::api {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class DatasetsApi : public ApiTest {
 protected:
  v1::UploadDatasetRequest Chunk(const std::string& id, int64_t offset, const std::string& data, bool finish) {
    v1::UploadDatasetRequest request;
    request.set_dataset_id(id);
    request.set_write_offset(offset);
    request.set_data(data);
    request.set_crc32c(spec::Crc32c(data));
    request.set_finish(finish);
    return request;
  }
  grpc::Status Send(const std::vector<v1::UploadDatasetRequest>& chunks, v1::Dataset* dataset) {
    auto context = Context();
    auto writer = datasets_->UploadDataset(context.get(), dataset);
    for (const auto& chunk : chunks) {
      if (!writer->Write(chunk)) break;
    }
    writer->WritesDone();
    return writer->Finish();
  }
  v1::UploadStatus Status(const std::string& id) {
    v1::GetUploadStatusRequest request;
    request.set_dataset_id(id);
    v1::UploadStatus status;
    auto context = Context();
    EXPECT_TRUE(datasets_->GetUploadStatus(context.get(), request, &status).ok());
    return status;
  }
};

TEST_F(DatasetsApi, UploadGetListDelete) {
  v1::Dataset uploaded, got;
  ASSERT_TRUE(Upload("rows", kGoodRows, &uploaded).ok());
  EXPECT_EQ(uploaded.name(), "datasets/rows");
  EXPECT_EQ(uploaded.format(), "prompt_completion");
  EXPECT_TRUE(Status("rows").complete());
  v1::GetDatasetRequest get;
  get.set_name("datasets/rows");
  auto context = Context();
  ASSERT_TRUE(datasets_->GetDataset(context.get(), get, &got).ok());
  EXPECT_EQ(got.sha256(), uploaded.sha256());
  Upload("more", "{\"text\": \"a text\"}\n", &uploaded);
  Upload("worse", "{}\n", &uploaded);
  v1::ListDatasetsRequest list;
  list.set_page_size(1);
  list.set_filter("state = ACTIVE");
  std::vector<std::string> names;
  for (int i = 0; i < 5; ++i) {
    v1::ListDatasetsResponse response;
    auto list_context = Context();
    ASSERT_TRUE(datasets_->ListDatasets(list_context.get(), list, &response).ok());
    for (const auto& dataset : response.datasets()) names.push_back(dataset.name());
    if (response.next_page_token().empty()) break;
    list.set_page_token(response.next_page_token());
  }
  EXPECT_THAT(names, ElementsAre("datasets/more", "datasets/rows"));
  v1::DeleteDatasetRequest remove;
  remove.set_name("datasets/rows");
  remove.set_etag("other");
  google::protobuf::Empty empty;
  auto stale = Context();
  EXPECT_EQ(ReasonOf(datasets_->DeleteDataset(stale.get(), remove, &empty)), "ETAG_MISMATCH");
  remove.set_etag(got.etag());
  remove.set_request_id("delete-1");
  for (int i = 0; i < 2; ++i) {  // repeated: the same answer
    auto delete_context = Context();
    EXPECT_TRUE(datasets_->DeleteDataset(delete_context.get(), remove, &empty).ok());
  }
  EXPECT_FALSE(std::filesystem::exists(store_->layout().DatasetFile(got.sha256())));
  auto gone = Context();
  EXPECT_EQ(datasets_->GetDataset(gone.get(), get, &got).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(DatasetsApi, ADatasetInUseIsNotDeleted) {
  Create(GoodJob());
  v1::DeleteDatasetRequest remove;
  remove.set_name("datasets/rows");
  google::protobuf::Empty empty;
  auto context = Context();
  const grpc::Status status = datasets_->DeleteDataset(context.get(), remove, &empty);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(ReasonOf(status), "DATASET_IN_USE");
}

TEST_F(DatasetsApi, AnUploadIsResumedWhereItBroke) {
  const std::string rows = kGoodRows;
  v1::Dataset dataset;
  const grpc::Status left = Send({Chunk("rows", 0, rows.substr(0, 40), false)}, &dataset);
  ASSERT_TRUE(left.ok());
  EXPECT_EQ(dataset.state(), v1::Dataset::UPLOADING);
  const v1::UploadStatus status = Status("rows");
  EXPECT_EQ(status.committed_size(), 40);
  EXPECT_FALSE(status.complete());
  ASSERT_TRUE(Send({Chunk("rows", 40, rows.substr(40), true)}, &dataset).ok());
  EXPECT_EQ(dataset.state(), v1::Dataset::ACTIVE);
  EXPECT_EQ(dataset.size_bytes(), static_cast<int64_t>(rows.size()));
}

TEST_F(DatasetsApi, ACancelledUploadKeepsWhatCame) {
  {
    v1::Dataset dataset;
    auto context = Context();
    auto writer = datasets_->UploadDataset(context.get(), &dataset);
    ASSERT_TRUE(writer->Write(Chunk("rows", 0, std::string(1 << 20, 'x'), false)));
    while (store_->GetUpload("rows").status().code() == absl::StatusCode::kNotFound) {
    }
    context->TryCancel();
    writer->Finish();
  }
  int64_t committed = 0;
  for (int i = 0; i < 500 && committed == 0; ++i) {
    committed = Status("rows").committed_size();
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_EQ(committed, 1 << 20);
}

TEST_F(DatasetsApi, CorruptionAndWrongOffsetsAreNamed) {
  v1::Dataset dataset;
  auto damaged = Chunk("rows", 0, "abc", true);
  damaged.set_data("abd");
  grpc::Status status = Send({damaged}, &dataset);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_EQ(DetailOf<google::rpc::ResourceInfo>(status).resource_name(), "datasets/rows");
  status = Send({Chunk("rows", 0, "abc", false), Chunk("rows", 10, "def", true)}, &dataset);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(DetailOf<google::rpc::ErrorInfo>(status).metadata().at("committed_size"), "3");
  status = Send({}, &dataset);
  EXPECT_THAT(FieldsOf(status), ElementsAre("dataset_id"));
  status = Send({Chunk("../x", 0, "abc", true)}, &dataset);
  EXPECT_THAT(FieldsOf(status), ElementsAre("dataset_id"));
  status = Send({Chunk("rows", 0, std::string((1 << 20) + 1, 'x'), true)}, &dataset);
  EXPECT_THAT(FieldsOf(status), ElementsAre("data"));
}

TEST_F(DatasetsApi, MessagesAboveTheLimitAreRefused) {
  v1::Dataset dataset;
  const grpc::Status status = Send({Chunk("rows", 0, std::string(9 << 20, 'x'), true)}, &dataset);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(DatasetsApi, PreviewShowsWhichTokensTrain) {
  v1::Dataset dataset;
  ASSERT_TRUE(Upload("rows", kGoodRows, &dataset).ok());
  v1::PreviewDatasetRequest request;
  request.set_name("datasets/rows");
  request.set_base_model("models/tiny");
  request.set_max_rows(2);
  v1::PreviewDatasetResponse response;
  auto context = Context();
  const grpc::Status status = datasets_->PreviewDataset(context.get(), request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(response.rows_size(), 2);
  const auto& row = response.rows(0);
  EXPECT_THAT(row.text(), HasSubstr("What is 2+2?"));
  ASSERT_EQ(row.tokens_size(), row.trained_size());
  std::string trained, all;
  for (int i = 0; i < row.tokens_size(); ++i) {
    all += row.tokens(i);
    if (row.trained(i)) trained += row.tokens(i);
  }
  EXPECT_EQ(all, row.text());
  EXPECT_THAT(trained, HasSubstr("4"));
  EXPECT_THAT(trained, ::testing::Not(HasSubstr("What")));
  EXPECT_EQ(response.rows(1).line(), 2);
  request.set_max_rows(1000);
  request.mutable_sft()->set_loss_on("everything");
  auto bad = Context();
  EXPECT_THAT(FieldsOf(datasets_->PreviewDataset(bad.get(), request, &response)), ElementsAre("max_rows", "sft.loss_on"));
}

// Each file of ../shared/data/bad, through the wire, gets the verdict of bad_expected.jsonl.
TEST_F(DatasetsApi, BadFilesGetTheirVerdict) {
  std::ifstream expected(std::string(FINETUNED_SHARED_DATA) + "/bad_expected.jsonl");
  if (!expected) GTEST_SKIP() << "no shared data";
  int files = 0;
  for (std::string line; std::getline(expected, line); ++files) {
    const auto want = nlohmann::json::parse(line);
    const std::string file = want.at("file");
    SCOPED_TRACE(file);
    std::ifstream in(std::string(FINETUNED_SHARED_DATA) + "/" + file, std::ios::binary);
    std::stringstream bytes;
    bytes << in.rdbuf();
    v1::Dataset dataset;
    const std::string id = "bad-" + std::to_string(files);
    const grpc::Status status = Upload(id, bytes.str(), &dataset, want.at("job"));
    ASSERT_TRUE(status.ok()) << status.error_message();
    const std::string verdict = want.at("verdict");
    if (verdict == "reject") {
      EXPECT_EQ(dataset.state(), v1::Dataset::INVALID);
    } else if (verdict == "accept") {
      EXPECT_EQ(dataset.state(), v1::Dataset::ACTIVE) << dataset.ShortDebugString();
    }
    if (dataset.state() == v1::Dataset::INVALID) {
      ASSERT_GT(dataset.errors_size(), 0);
      EXPECT_FALSE(dataset.errors(0).reason().empty());
      if (want.at("line").is_number()) {
        EXPECT_EQ(dataset.errors(0).line(), want.at("line").get<int64_t>()) << dataset.errors(0).message();
      }
    }
    if (want.at("rows").is_number() && dataset.state() == v1::Dataset::ACTIVE) {
      EXPECT_EQ(dataset.stats().rows(), want.at("rows").get<int64_t>());
    }
  }
  EXPECT_EQ(files, 58);
}

}  // namespace
}  // namespace finetuned::api
