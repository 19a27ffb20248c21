#pragma once

#include "finetuned/v1/daemon.grpc.pb.h"
#include "server/api/front.h"

namespace finetuned::api {

// finetuned.v1.Daemon.
class DaemonService final : public v1::Daemon::CallbackService {
 public:
  explicit DaemonService(const Front& front) : front_(front) {}

  using Context = grpc::CallbackServerContext;
  grpc::ServerUnaryReactor* GetServerInfo(Context*, const v1::GetServerInfoRequest*, v1::ServerInfo*) override;
  grpc::ServerUnaryReactor* DrainServer(Context*, const v1::DrainServerRequest*, v1::ServerInfo*) override;

 private:
  void Describe(v1::ServerInfo* info) const;

  const Front front_;
};

}  // namespace finetuned::api
