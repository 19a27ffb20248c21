#include "clients/cli/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace finetuned::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

template <class Detail>
grpc::Status WithDetail(grpc::StatusCode code, const std::string& message, const Detail& detail) {
  google::rpc::Status rich;
  rich.set_code(code);
  rich.set_message(message);
  rich.add_details()->PackFrom(detail);
  return {code, message, rich.SerializeAsString()};
}

TEST(DescribeStatus, ListsFieldViolations) {
  google::rpc::BadRequest bad;
  auto* v = bad.add_field_violations();
  v->set_field("job.spec.lora.rank");
  v->set_description("must be 1 to 1024, got -1");
  const grpc::Status status = WithDetail(grpc::StatusCode::INVALID_ARGUMENT, "invalid job", bad);
  EXPECT_EQ(DescribeStatus(status), "invalid job\n  job.spec.lora.rank: must be 1 to 1024, got -1");
  EXPECT_EQ(ExitCodeFor(status), kUsage);
}

TEST(DescribeStatus, SaysWhatToTry) {
  google::rpc::ErrorInfo info;
  info.set_reason("VRAM_BUDGET_EXCEEDED");
  (*info.mutable_metadata())["suggestion"] = "set micro_batch_size 2: 21.8 GB";
  const grpc::Status status =
      WithDetail(grpc::StatusCode::RESOURCE_EXHAUSTED, "needs 27.1 GB, budget 22.9 GB", info);
  EXPECT_THAT(DescribeStatus(status), HasSubstr("try: set micro_batch_size 2: 21.8 GB"));
}

TEST(DescribeStatus, BrokenDetailsLeaveTheMessage) {
  EXPECT_EQ(DescribeStatus({grpc::StatusCode::INTERNAL, "oops", "\xff\xff"}), "oops");
}

TEST(Check, NamesTheAddressWhenNobodyAnswers) {
  Client client({"unix:///nowhere/finetuned.sock", "", "", "", ""});
  v1::ServerInfo info;
  auto context = client.Context(2);
  const grpc::Status status = client.daemon->GetServerInfo(context.get(), {}, &info);
  try {
    Check(status, client);
    FAIL() << "no error";
  } catch (const CommandError& e) {
    EXPECT_EQ(e.code, kUnreachable);
    EXPECT_THAT(e.message, HasSubstr("unix:///nowhere/finetuned.sock"));
    EXPECT_THAT(e.message, HasSubstr("start it with"));
  }
}

TEST(Check, ErrorsEndWithWhatToDo) {
  Client client({"unix:///nowhere/finetuned.sock", "", "", "", ""});
  for (const auto code : {grpc::StatusCode::NOT_FOUND, grpc::StatusCode::UNAUTHENTICATED,
                          grpc::StatusCode::PERMISSION_DENIED, grpc::StatusCode::ALREADY_EXISTS,
                          grpc::StatusCode::DEADLINE_EXCEEDED, grpc::StatusCode::INTERNAL}) {
    try {
      Check({code, "it failed"}, client);
      FAIL() << "no error";
    } catch (const CommandError& e) {
      EXPECT_THAT(e.message, MatchesRegex("it failed\n  .+"));
    }
  }
}

TEST(NewRequestId, IsAVersion4Uuid) {
  EXPECT_THAT(NewRequestId(), MatchesRegex("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"));
  EXPECT_NE(NewRequestId(), NewRequestId());
}

TEST(ResourceName, TakesBothForms) {
  EXPECT_EQ(ResourceName("jobs", "a"), "jobs/a");
  EXPECT_EQ(ResourceName("jobs", "jobs/a"), "jobs/a");
  EXPECT_EQ(ShortName("jobs/a"), "a");
  EXPECT_EQ(ShortName("a"), "a");
}

}  // namespace
}  // namespace finetuned::cli
