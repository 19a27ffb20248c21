#pragma once

#include "finetuned/v1/datasets.grpc.pb.h"
#include "server/api/front.h"

namespace finetuned::api {

// finetuned.v1.Datasets.
class DatasetsService final : public v1::Datasets::CallbackService {
 public:
  explicit DatasetsService(const Front& front) : front_(front) {}

  using Context = grpc::CallbackServerContext;
  using Unary = grpc::ServerUnaryReactor;
  grpc::ServerReadReactor<v1::UploadDatasetRequest>* UploadDataset(Context*, v1::Dataset*) override;
  Unary* GetUploadStatus(Context*, const v1::GetUploadStatusRequest*, v1::UploadStatus*) override;
  Unary* GetDataset(Context*, const v1::GetDatasetRequest*, v1::Dataset*) override;
  Unary* ListDatasets(Context*, const v1::ListDatasetsRequest*, v1::ListDatasetsResponse*) override;
  Unary* DeleteDataset(Context*, const v1::DeleteDatasetRequest*, google::protobuf::Empty*) override;
  Unary* PreviewDataset(Context*, const v1::PreviewDatasetRequest*, v1::PreviewDatasetResponse*) override;

 private:
  store::Store& store() const { return *front_.shared->daemon.store; }
  absl::StatusOr<v1::Dataset> Find(const std::string& name) const;
  absl::Status List(const auth::Caller& caller, const v1::ListDatasetsRequest& request, v1::ListDatasetsResponse* response) const;
  absl::Status Delete(const v1::DeleteDatasetRequest& request,
                      const std::optional<store::RequestRecord>& remember) const;
  absl::Status Preview(const v1::PreviewDatasetRequest& request, v1::PreviewDatasetResponse* response) const;

  const Front front_;
};

}  // namespace finetuned::api
