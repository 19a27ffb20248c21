// What goes wrong with files of the daemon is told without their paths, in the text and in every detail.
#include <filesystem>
#include <fstream>

#include "api_testing.h"
#include "proto/spec/crc32c.h"

namespace finetuned::api {
namespace {

namespace fs = std::filesystem;

class ErrorPaths : public ApiTest {
 protected:
  void Configure(config::Config* config) override {
    fs::create_directories(dir_ + "/models/broken");
    std::ofstream(dir_ + "/models/broken/config.json") << "{";
    fs::create_directories(dir_ + "/models/empty");
    std::ofstream(dir_ + "/models/damaged.gguf") << "GGUF\x03";
    std::ofstream(dir_ + "/models/not_a_model.bin") << "hello";
    std::ofstream(dir_ + "/outside") << "secret";
    fs::create_symlink(dir_ + "/outside", dir_ + "/models/link.gguf");
    config->models.roots = {dir_ + "/models"};
    config->models.models["gone"] = dir_ + "/models/gone.gguf";
    config->models.models["damaged"] = dir_ + "/models/damaged.gguf";
  }
  // An error, told without the folder of the daemon or of the tests' model.
  void ExpectSilent(const grpc::Status& status, const std::string& what) {
    EXPECT_FALSE(status.ok()) << what;
    for (const std::string& text : {status.error_message(), status.error_details()}) {
      EXPECT_EQ(text.find(dir_), std::string::npos) << what << ": " << text;
      EXPECT_EQ(text.find(FINETUNED_SOURCE_DIR), std::string::npos) << what << ": " << text;
    }
  }
  grpc::Status CreateWith(const std::string& base_model) {
    v1::CreateJobRequest request = GoodJob();
    request.mutable_job()->mutable_spec()->set_base_model(base_model);
    v1::Job job;
    return jobs_->CreateJob(Context().get(), request, &job);
  }
};

TEST_F(ErrorPaths, OfModels) {
  for (const std::string model : {"models/gone", "models/damaged", "models/unknown"}) ExpectSilent(CreateWith(model), model);
  for (const std::string name :
       {"broken", "empty", "damaged.gguf", "not_a_model.bin", "missing", "link.gguf", "../outside", "../state"}) {
    // The caller knows the path it sent; the answer need not repeat it.
    ExpectSilent(CreateWith(dir_ + "/models/" + name), name);
  }
  ExpectSilent(CreateWith("/etc/passwd"), "/etc/passwd");
  v1::ServerInfo info;
  ASSERT_TRUE(daemon_->GetServerInfo(Context().get(), {}, &info).ok());
  EXPECT_EQ(info.ShortDebugString().find(dir_), std::string::npos) << info.ShortDebugString();
}

TEST_F(ErrorPaths, OfDatasets) {
  v1::CreateJobRequest request = GoodJob();
  fs::remove_all(store_->layout().DatasetsDir());
  v1::Job job;
  ExpectSilent(jobs_->CreateJob(Context().get(), request, &job), "CreateJob");
  v1::PreviewDatasetRequest preview;
  preview.set_name("datasets/rows");
  preview.set_base_model("models/tiny");
  v1::PreviewDatasetResponse rows;
  ExpectSilent(datasets_->PreviewDataset(Context().get(), preview, &rows), "PreviewDataset");
  v1::PlanJobRequest plan;
  *plan.mutable_job() = request.job();
  v1::JobPlan planned;
  ExpectSilent(jobs_->PlanJob(Context().get(), plan, &planned), "PlanJob");
  fs::remove_all(store_->layout().UploadsDir());
  v1::Dataset dataset;
  ExpectSilent(Upload("others", kGoodRows, &dataset), "UploadDataset");
}

TEST_F(ErrorPaths, OfAdapters) {
  const v1::Job job = Create(GoodJob("makes-one"));
  worker_->RunToTheEnd(2);
  ASSERT_EQ(WaitFor(job.name(), v1::SUCCEEDED).output_adapter(), "adapters/makes-one");
  fs::remove_all(store_->layout().AdaptersDir());
  v1::DownloadAdapterRequest download;
  download.set_name("adapters/makes-one");
  download.set_file("adapter_config.json");
  auto context = Context();
  auto reader = adapters_->DownloadAdapter(context.get(), download);
  v1::DownloadChunk chunk;
  EXPECT_FALSE(reader->Read(&chunk));
  ExpectSilent(reader->Finish(), "DownloadAdapter");
  for (const std::string file : {"../finetuned.db", "/etc/passwd", "", "."}) {
    download.set_file(file);
    auto other_context = Context();
    auto other = adapters_->DownloadAdapter(other_context.get(), download);
    EXPECT_FALSE(other->Read(&chunk)) << file;
    ExpectSilent(other->Finish(), file);
  }
}

TEST_F(ErrorPaths, OfAWorkerThatTellsAPath) {
  const v1::Job job = Create(GoodJob("fails"));
  worker_->WaitForRun();
  worker_->Finish(70, "", "cannot write " + dir_ + "/state/jobs/x/checkpoints: no space");
  const v1::Job failed = WaitFor(job.name(), v1::FAILED);
  EXPECT_EQ(failed.ShortDebugString().find(dir_), std::string::npos) << failed.ShortDebugString();
  v1::ListEventsRequest list;
  list.set_parent(job.name());
  v1::ListEventsResponse events;
  ASSERT_TRUE(jobs_->ListEvents(Context().get(), list, &events).ok());
  EXPECT_EQ(events.ShortDebugString().find(dir_), std::string::npos) << events.ShortDebugString();
}

}  // namespace
}  // namespace finetuned::api
