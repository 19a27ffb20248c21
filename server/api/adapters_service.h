#pragma once

#include "finetuned/v1/adapters.grpc.pb.h"
#include "server/api/front.h"

namespace finetuned::api {

// finetuned.v1.Adapters.
class AdaptersService final : public v1::Adapters::CallbackService {
 public:
  explicit AdaptersService(const Front& front) : front_(front) {}

  using Context = grpc::CallbackServerContext;
  using Unary = grpc::ServerUnaryReactor;
  Unary* GetAdapter(Context*, const v1::GetAdapterRequest*, v1::Adapter*) override;
  Unary* ListAdapters(Context*, const v1::ListAdaptersRequest*, v1::ListAdaptersResponse*) override;
  Unary* DeleteAdapter(Context*, const v1::DeleteAdapterRequest*, google::protobuf::Empty*) override;
  grpc::ServerWriteReactor<v1::DownloadChunk>* DownloadAdapter(Context*,
                                                               const v1::DownloadAdapterRequest*) override;
  grpc::ServerWriteReactor<v1::SampleResponse>* Sample(Context*, const v1::SampleRequest*) override;

 private:
  store::Store& store() const { return *front_.shared->daemon.store; }
  absl::StatusOr<store::AdapterRecord> Find(const std::string& name) const;
  absl::Status List(const auth::Caller& caller, const v1::ListAdaptersRequest& request, v1::ListAdaptersResponse* response) const;
  absl::Status Delete(const v1::DeleteAdapterRequest& request,
                      const std::optional<store::RequestRecord>& remember) const;

  const Front front_;
};

}  // namespace finetuned::api
