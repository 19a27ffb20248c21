#include <filesystem>

#include <nlohmann/json.hpp>

#include "two_callers.h"

namespace finetuned::api {
namespace {

using nlohmann::json;

class Audited : public TwoCallers {
 protected:
  // The newest entry about the method.
  json Last(const std::string& method) {
    const std::vector<std::string> lines = Audit();
    for (auto line = lines.rbegin(); line != lines.rend(); ++line) {
      json entry = json::parse(*line);
      if (entry["method"].get<std::string>().ends_with(method)) return entry;
    }
    ADD_FAILURE() << "no entry about " << method;
    return {};
  }
};

TEST_F(Audited, ChangesSayWhoWhatAndTheAnswer) {
  v1::CreateJobRequest request = GoodJob("a-job");
  request.set_request_id("4d4a1b5e-3d1e-4b8e-9a57-0123456789ab");
  request.mutable_job()->set_display_name("a secret plan");
  Create(request);
  const json created = Last("Jobs/CreateJob");
  EXPECT_EQ(created["principal"], "uid:" + std::to_string(geteuid()));
  EXPECT_EQ(created["resource"], "a-job");
  EXPECT_EQ(created["request_id"], request.request_id());
  EXPECT_EQ(created["code"], "OK");
  EXPECT_EQ(Last("Datasets/UploadDataset")["resource"], "rows");

  v1::CancelJobRequest cancel;
  cancel.set_name("jobs/no-such-job");
  v1::Job job;
  EXPECT_FALSE(v1::Jobs::NewStub(Tcp())->CancelJob(As(ann_token_).get(), cancel, &job).ok());
  const json cancelled = Last("Jobs/CancelJob");
  EXPECT_EQ(cancelled["principal"], "token:ann");
  EXPECT_EQ(cancelled["resource"], "jobs/no-such-job");
  EXPECT_EQ(cancelled["code"], "NOT_FOUND");
  EXPECT_EQ(cancelled["reason"], "NOT_FOUND");
  EXPECT_EQ(Last("daemon/start")["code"], "OK");
}

TEST_F(Audited, RefusedCallersAreWrittenDownAndReadsAreNot) {
  v1::ListJobsResponse jobs;
  EXPECT_EQ(v1::Jobs::NewStub(Tcp())->ListJobs(Context().get(), {}, &jobs).error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
  const json refused = Last("Jobs/ListJobs");
  EXPECT_EQ(refused["code"], "UNAUTHENTICATED");
  EXPECT_FALSE(refused.contains("principal"));
  EXPECT_TRUE(refused["peer"].get<std::string>().starts_with("ipv4:127.0.0.1"));
  const size_t lines = Audit().size();
  EXPECT_TRUE(v1::Jobs::NewStub(Tcp())->ListJobs(As(bob_token_).get(), {}, &jobs).ok());
  EXPECT_EQ(Audit().size(), lines);
}

TEST_F(Audited, NeitherTokensNorDataAreWrittenDown) {
  Create(GoodJob("a-job"));
  v1::ListJobsResponse jobs;
  auto context = Context();
  context->AddMetadata("authorization", "Bearer wrong-but-secret");
  EXPECT_FALSE(v1::Jobs::NewStub(Tcp())->ListJobs(context.get(), {}, &jobs).ok());
  std::string all;
  for (const std::string& line : Audit()) all += line;
  for (const std::string& secret : {ann_token_.token, std::string("wrong-but-secret"), std::string("What is 2+2")}) {
    EXPECT_EQ(all.find(secret), std::string::npos);
  }
  EXPECT_EQ(std::filesystem::status(store_->layout().AuditLog()).permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
}

TEST_F(Audited, ATokenThatIsTakenOutStopsWorkingAfterReload) {
  v1::ListJobsResponse jobs;
  EXPECT_TRUE(v1::Jobs::NewStub(Tcp())->ListJobs(As(bob_token_).get(), {}, &jobs).ok());
  WriteTokens(ann_token_.line);
  ASSERT_TRUE(server_->Reload().ok());
  EXPECT_EQ(v1::Jobs::NewStub(Tcp())->ListJobs(As(bob_token_).get(), {}, &jobs).error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_TRUE(v1::Jobs::NewStub(Tcp())->ListJobs(As(ann_token_).get(), {}, &jobs).ok());
  EXPECT_EQ(Last("daemon/reload")["code"], "OK");
}

}  // namespace
}  // namespace finetuned::api
