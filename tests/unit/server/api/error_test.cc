#include "server/api/error.h"

#include <gmock/gmock.h>
#include <google/rpc/error_details.pb.h>
#include <gtest/gtest.h>

namespace finetuned::api {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

template <typename Detail>
Detail Find(const grpc::Status& status) {
  google::rpc::Status rpc;
  EXPECT_TRUE(rpc.ParseFromString(status.error_details()));
  EXPECT_EQ(rpc.code(), static_cast<int>(status.error_code()));
  EXPECT_EQ(rpc.message(), status.error_message());
  Detail found;
  for (const auto& detail : rpc.details()) {
    if (detail.UnpackTo(&found)) return found;
  }
  ADD_FAILURE() << "no " << Detail::descriptor()->full_name() << " in " << rpc.ShortDebugString();
  return found;
}

google::rpc::ErrorInfo Info(const grpc::Status& status) {
  auto info = Find<google::rpc::ErrorInfo>(status);
  EXPECT_EQ(info.domain(), "finetuned");
  return info;
}

TEST(Error, WrongFieldIsABadRequestWithItsPath) {
  const grpc::Status status = ToGrpc(InvalidField("job.spec.lora.rank", "must be 1 to 1024, got 2000"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  const auto bad = Find<google::rpc::BadRequest>(status);
  ASSERT_EQ(bad.field_violations_size(), 1);
  EXPECT_EQ(bad.field_violations(0).field(), "job.spec.lora.rank");
  EXPECT_EQ(Info(status).reason(), "INVALID_FIELD");
}

TEST(Error, AtMostTwentyViolationsAreListed) {
  const grpc::Status status = ToGrpc(InvalidFields(std::vector<spec::Violation>(35, {"a", "b"})));
  EXPECT_EQ(Find<google::rpc::BadRequest>(status).field_violations_size(), 20);
  EXPECT_THAT(status.error_message(), HasSubstr("and 34 more"));
}

TEST(Error, VramRefusalCarriesNumbersAndASuggestion) {
  const grpc::Status status = ToGrpc(VramExceeded(27'100'000'000, 23'300'000'000, "set x 2", "needs more"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  const auto info = Info(status);
  EXPECT_EQ(info.reason(), "VRAM_BUDGET_EXCEEDED");
  EXPECT_EQ(info.metadata().at("predicted_bytes"), "27100000000");
  EXPECT_EQ(info.metadata().at("budget_bytes"), "23300000000");
  EXPECT_EQ(info.metadata().at("suggestion"), "set x 2");
  EXPECT_EQ(Find<google::rpc::QuotaFailure>(status).violations(0).subject(), "vram");
  EXPECT_EQ(RejectionReason(VramExceeded(1, 1, "", "")), "vram_budget_exceeded");
}

TEST(Error, TheTableOfTheContract) {
  const auto busy = ToGrpc(Busy("QUEUE_FULL", "full", std::chrono::seconds(2)));
  EXPECT_EQ(busy.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(Find<google::rpc::RetryInfo>(busy).retry_delay().seconds(), 2);

  const auto state = ToGrpc(WrongState("jobs/x", "WRONG_STATE", "is QUEUED", {{"state", "QUEUED"}}));
  EXPECT_EQ(state.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(Find<google::rpc::PreconditionFailure>(state).violations(0).subject(), "jobs/x");
  EXPECT_EQ(Info(state).metadata().at("state"), "QUEUED");

  EXPECT_EQ(ToGrpc(EtagMismatch("jobs/x", "2")).error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(Info(ToGrpc(EtagMismatch("jobs/x", "2"))).reason(), "ETAG_MISMATCH");

  const auto away = ToGrpc(Unavailable("DRAINING", "leaving", std::chrono::seconds(1)));
  EXPECT_EQ(away.error_code(), grpc::StatusCode::UNAVAILABLE);
  Find<google::rpc::RetryInfo>(away);

  const auto gone = ToGrpc(HistoryCompacted("jobs/x", 17));
  EXPECT_EQ(gone.error_code(), grpc::StatusCode::OUT_OF_RANGE);
  EXPECT_EQ(Info(gone).metadata().at("first_available"), "17");

  const auto loss = ToGrpc(ChecksumMismatch("Dataset", "datasets/x", "crc"));
  EXPECT_EQ(loss.error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_EQ(Find<google::rpc::ResourceInfo>(loss).resource_name(), "datasets/x");

  const auto missing = ToGrpc(NotFound("Job", "jobs/x"));
  EXPECT_EQ(missing.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(Find<google::rpc::ResourceInfo>(missing).resource_type(), "finetuned.v1.Job");

  const auto later = ToGrpc(NotAvailable("job.spec.dpo", "DPO is not available"));
  EXPECT_EQ(later.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(Info(later).metadata().at("field"), "job.spec.dpo");
}

TEST(Error, PlainStatusesGetAReasonToo) {
  EXPECT_EQ(Info(ToGrpc(absl::InternalError("oops"))).reason(), "INTERNAL");
  Find<google::rpc::RetryInfo>(ToGrpc(absl::UnavailableError("busy")));
  Find<google::rpc::PreconditionFailure>(ToGrpc(absl::FailedPreconditionError("no")));
  EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok());
}

TEST(Error, AbsolutePathsDoNotLeave) {
  EXPECT_EQ(WithoutPaths("cannot open /var/lib/x/y.gguf: no"), "cannot open y.gguf: no");
  EXPECT_EQ(WithoutPaths("(/a/b) '/c/d'"), "(b) 'd'");
  EXPECT_EQ(WithoutPaths("jobs/x has 3 rows/s and 1/2"), "jobs/x has 3 rows/s and 1/2");
  const grpc::Status status = ToGrpc(absl::InternalError("failed in /srv/models/secret/weights.bin"));
  EXPECT_THAT(status.error_message(), Not(HasSubstr("/srv")));
  EXPECT_THAT(status.error_details(), Not(HasSubstr("/srv")));
}

}  // namespace
}  // namespace finetuned::api
