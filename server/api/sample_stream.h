#pragma once

#include <memory>

#include <grpcpp/grpcpp.h>

#include "finetuned/v1/adapters.pb.h"
#include "server/api/front.h"

namespace finetuned::api {

// One Sample call. Deletes itself.
class SampleStream final : public grpc::ServerWriteReactor<v1::SampleResponse> {
 public:
  SampleStream(const Front& front, grpc::CallbackServerContext* context, const v1::SampleRequest& request);

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  class Sink;
  void Begin(const auth::Caller& caller);  // on the pool

  const Front front_;
  const v1::SampleRequest request_;
  const std::shared_ptr<Sink> sink_;
};

}  // namespace finetuned::api
