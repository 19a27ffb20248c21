#pragma once

#include <memory>
#include <string>

#include <grpcpp/grpcpp.h>

#include "finetuned/v1/datasets.pb.h"
#include "server/api/front.h"

namespace finetuned::api {

// One UploadDataset call: read a message, write it on the pool, read the next. After the message with
// `finish` the file is validated and the dataset is the answer; a stream that ends without it leaves an
// upload that can be continued, answered with state UPLOADING. Deletes itself.
class UploadStream final : public grpc::ServerReadReactor<v1::UploadDatasetRequest> {
 public:
  UploadStream(const Front& front, grpc::CallbackServerContext* context, v1::Dataset* response);

  void OnReadDone(bool ok) override;
  void OnDone() override { delete this; }

 private:
  absl::Status CheckOwner() const;  // with access.own_only: the name is not another's
  void Write();         // on the pool
  void FinishUpload();  // on the slow pool
  void Leave();         // the client is gone or has closed its half
  void End(const absl::Status& status);

  const Front front_;
  v1::Dataset* const response_;
  auth::Caller caller_;
  v1::UploadDatasetRequest request_;
  std::unique_ptr<Upload> upload_;
};

}  // namespace finetuned::api
