#include "server/api/adapters_service.h"

#include <filesystem>
#include <fstream>

#include "api_testing.h"
#include "proto/spec/crc32c.h"

namespace finetuned::api {
namespace {

using ::testing::ElementsAre;

class AdaptersApi : public ApiTest {
 protected:
  v1::Adapter MakeAdapter() {
    const v1::Job job = Create(GoodJob());
    worker_->WaitForRun();
    worker_->RunToTheEnd(3);
    v1::GetAdapterRequest request;
    request.set_name(WaitFor(job.name(), v1::SUCCEEDED).output_adapter());
    v1::Adapter adapter;
    auto context = Context();
    EXPECT_TRUE(adapters_->GetAdapter(context.get(), request, &adapter).ok());
    return adapter;
  }
  grpc::Status Download(const v1::DownloadAdapterRequest& request, std::string* data, v1::DownloadChunk* last) {
    auto context = Context();
    auto reader = adapters_->DownloadAdapter(context.get(), request);
    v1::DownloadChunk chunk;
    while (reader->Read(&chunk)) {
      EXPECT_EQ(chunk.offset(), request.read_offset() + static_cast<int64_t>(data->size()));
      EXPECT_EQ(chunk.crc32c(), spec::Crc32c(chunk.data()));
      EXPECT_LE(chunk.data().size(), size_t{1} << 20);
      *data += chunk.data();
      *last = chunk;
    }
    return reader->Finish();
  }
};

TEST_F(AdaptersApi, AnAdapterIsListedAndDownloadedFromAnyOffset) {
  const v1::Adapter adapter = MakeAdapter();
  EXPECT_TRUE(std::filesystem::exists(adapter.local_path()));
  v1::ListAdaptersResponse list;
  auto context = Context();
  ASSERT_TRUE(adapters_->ListAdapters(context.get(), {}, &list).ok());
  ASSERT_EQ(list.adapters_size(), 1);
  EXPECT_EQ(list.adapters(0).name(), adapter.name());
  v1::DownloadAdapterRequest request;
  request.set_name(adapter.name());
  request.set_file("adapter_model.safetensors");
  std::string whole;
  v1::DownloadChunk last;
  ASSERT_TRUE(Download(request, &whole, &last).ok());
  EXPECT_EQ(whole.size(), 3'000'000u);
  EXPECT_EQ(last.total_size(), 3'000'000);
  EXPECT_EQ(last.sha256(), adapter.sha256());
  for (const int64_t offset : {1, 1 << 20, 2'999'999, 3'000'000}) {
    request.set_read_offset(offset);
    std::string rest;
    ASSERT_TRUE(Download(request, &rest, &last).ok());
    EXPECT_EQ(rest, whole.substr(static_cast<size_t>(offset)));
    EXPECT_EQ(last.sha256(), adapter.sha256());
  }
  request.set_read_offset(3'000'001);
  std::string none;
  EXPECT_EQ(Download(request, &none, &last).error_code(), grpc::StatusCode::OUT_OF_RANGE);
}

TEST_F(AdaptersApi, OnlyItsOwnFilesAreServed) {
  const v1::Adapter adapter = MakeAdapter();
  v1::DownloadAdapterRequest request;
  request.set_name(adapter.name());
  std::string data;
  v1::DownloadChunk last;
  for (const char* file : {"", "../finetuned.db", "/etc/passwd", "nothing"}) {
    request.set_file(file);
    EXPECT_THAT(FieldsOf(Download(request, &data, &last)), ElementsAre("file"));
  }
  request.set_file("adapter_config.json");
  request.set_format(v1::DownloadAdapterRequest::GGUF_LORA);
  EXPECT_EQ(Download(request, &data, &last).error_code(), grpc::StatusCode::UNIMPLEMENTED);
  request.set_name("adapters/nothing");
  request.clear_format();
  EXPECT_EQ(Download(request, &data, &last).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(AdaptersApi, AFileThatWasDamagedOnDiskIsDataLoss) {
  const v1::Adapter adapter = MakeAdapter();
  std::filesystem::resize_file(adapter.local_path() + "/adapter_model.safetensors", 100);
  v1::DownloadAdapterRequest request;
  request.set_name(adapter.name());
  request.set_file("adapter_model.safetensors");
  std::string data;
  v1::DownloadChunk last;
  EXPECT_EQ(Download(request, &data, &last).error_code(), grpc::StatusCode::DATA_LOSS);
}

TEST_F(AdaptersApi, AJobThatStartsFromItTakesItsShapeAndKeepsItThere) {
  const v1::Adapter adapter = MakeAdapter();
  std::ofstream(adapter.local_path() + "/adapter_config.json")
      << R"({"peft_type": "LORA", "r": 4, "lora_alpha": 12, "target_modules": ["v_proj", "q_proj"]})";
  v1::CreateJobRequest request = GoodJob();
  v1::JobSpec* spec = request.mutable_job()->mutable_spec();
  spec->set_init_adapter(adapter.name());
  spec->mutable_lora()->set_rank(8);
  const auto refused = [&] {
    v1::Job job;
    auto context = Context();
    return jobs_->CreateJob(context.get(), request, &job);
  };
  EXPECT_THAT(FieldsOf(refused()), ElementsAre("job.spec.lora.rank"));
  spec->set_init_adapter("adapters/nothing");
  EXPECT_EQ(refused().error_code(), grpc::StatusCode::NOT_FOUND);
  spec->set_init_adapter(adapter.name());
  spec->clear_lora();
  const v1::Job job = Create(request);
  EXPECT_EQ(job.resolved_spec().lora().rank(), 4);
  EXPECT_EQ(job.resolved_spec().lora().alpha(), 12);
  EXPECT_THAT(job.resolved_spec().lora().target_modules(), ElementsAre("q_proj", "v_proj"));
  const auto run = worker_->WaitForRun();
  EXPECT_EQ(run.init_adapter_path(), adapter.local_path());
  EXPECT_THAT(run.reference_dir(), testing::EndsWith("/reference"));
  EXPECT_EQ(run.created_unix_seconds(), job.create_time().seconds());
  v1::DeleteAdapterRequest remove;
  remove.set_name(adapter.name());
  google::protobuf::Empty empty;
  auto context = Context();
  EXPECT_EQ(adapters_->DeleteAdapter(context.get(), remove, &empty).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  worker_->RunToTheEnd(3);
  WaitFor(job.name(), v1::SUCCEEDED);
  auto again = Context();
  EXPECT_TRUE(adapters_->DeleteAdapter(again.get(), remove, &empty).ok());
}

TEST_F(AdaptersApi, DeletingRemovesTheFiles) {
  const v1::Adapter adapter = MakeAdapter();
  v1::DeleteAdapterRequest request;
  request.set_name(adapter.name());
  google::protobuf::Empty empty;
  auto context = Context();
  ASSERT_TRUE(adapters_->DeleteAdapter(context.get(), request, &empty).ok());
  EXPECT_FALSE(std::filesystem::exists(adapter.local_path()));
  auto again = Context();
  EXPECT_EQ(adapters_->DeleteAdapter(again.get(), request, &empty).error_code(), grpc::StatusCode::NOT_FOUND);
}

}  // namespace
}  // namespace finetuned::api
