#include "api_testing.h"

namespace finetuned::api {
namespace {

using ::testing::HasSubstr;

class SampleApi : public ApiTest {
 protected:
  static v1::SampleRequest Base(const std::string& prompt = "Hello") {
    v1::SampleRequest request;
    request.set_base_model("models/tiny");
    request.set_prompt(prompt);
    request.set_raw(true);
    return request;
  }
  grpc::Status Fail(const v1::SampleRequest& request) {
    auto context = Context();
    auto reader = adapters_->Sample(context.get(), request);
    v1::SampleResponse piece;
    EXPECT_FALSE(reader->Read(&piece));
    return reader->Finish();
  }
};

TEST_F(SampleApi, PiecesOfTheWorkerArriveInOrder) {
  auto context = Context();
  auto reader = adapters_->Sample(context.get(), Base());
  const internal::v1::RunSample asked = worker_->WaitForSamples(1)[0];
  EXPECT_THAT(asked.base_model_path(), HasSubstr("untied"));
  EXPECT_EQ(asked.adapter_dir(), "");
  EXPECT_EQ(asked.spec().quantization().base(), "nf4");
  EXPECT_EQ(asked.request().max_tokens(), 256);
  EXPECT_EQ(asked.request().num_samples(), 1);
  EXPECT_EQ(asked.request().top_p(), 1);
  worker_->Piece(asked.id(), "one ", false);
  worker_->Piece(asked.id(), "two", false);
  worker_->Piece(asked.id(), "", true);
  std::string text;
  v1::SampleResponse piece;
  while (reader->Read(&piece)) text += piece.text();
  EXPECT_EQ(text, "one two");
  const grpc::Status status = reader->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(SampleApi, AnAdapterIsUsedWithTheSettingsOfItsJob) {
  v1::CreateJobRequest job = GoodJob();
  job.mutable_job()->mutable_spec()->mutable_quantization()->set_base("none");
  const v1::Job created = Create(job);
  worker_->WaitForRun();
  worker_->RunToTheEnd(2);
  const v1::Job done = WaitFor(created.name(), v1::SUCCEEDED);
  v1::SampleRequest request = Base();
  request.set_adapter(done.output_adapter());
  auto context = Context();
  auto reader = adapters_->Sample(context.get(), request);
  const internal::v1::RunSample asked = worker_->WaitForSamples(1)[0];
  EXPECT_EQ(asked.spec().quantization().base(), "none");
  EXPECT_THAT(asked.adapter_dir(), HasSubstr("/adapters/"));
  worker_->Piece(asked.id(), "", true);
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(SampleApi, RefusedWhileAJobHasTheDevice) {
  const v1::Job job = Create(GoodJob());
  worker_->WaitForRun();
  worker_->Phase("training");
  WaitFor(job.name(), v1::RUNNING);
  const grpc::Status status = Fail(Base());
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ReasonOf(status), "DEVICE_BUSY");
  EXPECT_THAT(status.error_message(), HasSubstr(job.name() + " is using the device"));
  EXPECT_GT(DetailOf<google::rpc::RetryInfo>(status).retry_delay().seconds(), 0);
}

TEST_F(SampleApi, AJobThatStartsEndsIt) {
  auto context = Context();
  auto reader = adapters_->Sample(context.get(), Base());
  worker_->WaitForSamples(1);
  const v1::Job job = Create(GoodJob());
  v1::SampleResponse piece;
  EXPECT_FALSE(reader->Read(&piece));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr(job.name()));
  worker_->WaitForSamples(0);
}

TEST_F(SampleApi, AClientThatLeavesEndsItAtTheWorker) {
  auto context = Context();
  auto reader = adapters_->Sample(context.get(), Base());
  const int64_t id = worker_->WaitForSamples(1)[0].id();
  worker_->Piece(id, "one", false);
  v1::SampleResponse piece;
  EXPECT_TRUE(reader->Read(&piece));
  context->TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  worker_->WaitForSamples(0);
  worker_->Piece(id, "late", true);  // of nobody: ignored
}

TEST_F(SampleApi, TheEndOfTheWorkerEndsIt) {
  auto context = Context();
  auto reader = adapters_->Sample(context.get(), Base());
  worker_->WaitForSamples(1);
  worker_->Kill("test");
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(SampleApi, EveryWrongFieldIsNamed) {
  v1::SampleRequest request;
  request.set_max_tokens(-1);
  request.set_num_samples(65);
  request.set_temperature(-0.5);
  request.set_top_p(1.5);
  request.set_min_p(2);
  request.set_top_k(-1);
  request.set_repetition_penalty(-1);
  request.add_stop("");
  const grpc::Status status = Fail(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(FieldsOf(status),
              ::testing::UnorderedElementsAre("target", "prompt", "max_tokens", "num_samples", "temperature", "top_p",
                                              "min_p", "top_k", "repetition_penalty", "stop"));
}

TEST_F(SampleApi, UnknownTargetsAreRefused) {
  v1::SampleRequest request = Base();
  request.set_base_model("models/tyni");
  EXPECT_EQ(FieldsOf(Fail(request)), std::vector<std::string>{"base_model"});
  request.set_adapter("adapters/nothing");
  EXPECT_EQ(Fail(request).error_code(), grpc::StatusCode::NOT_FOUND);
  request.set_checkpoint("jobs/nothing");
  EXPECT_EQ(FieldsOf(Fail(request)), std::vector<std::string>{"checkpoint"});
  request.set_checkpoint("jobs/nothing/checkpoints/3");
  EXPECT_EQ(Fail(request).error_code(), grpc::StatusCode::NOT_FOUND);
}

}  // namespace
}  // namespace finetuned::api
