#pragma once

#include <grpcpp/grpcpp.h>

#include "server/api/front.h"

namespace finetuned::api {

// A streaming call that is answered with an error at once; callers without credentials learn only that.
template <typename Reactor>
class Refused final : public Reactor {
 public:
  Refused(const Front& front, grpc::CallbackServerContext* context, const absl::Status& status) {
    const auto caller = front.authenticator->Identify(*context);
    this->Finish(ToGrpc(caller.ok() ? status : caller.status()));
  }
  void OnDone() override { delete this; }
};

}  // namespace finetuned::api
