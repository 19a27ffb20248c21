#pragma once

#include <string>

#include <grpcpp/grpcpp.h>

#include "finetuned/v1/adapters.pb.h"
#include "server/api/front.h"

namespace finetuned::api {

// One DownloadAdapter call: a chunk is read from disk on the pool while none is being written. Deletes
// itself.
class DownloadStream final : public grpc::ServerWriteReactor<v1::DownloadChunk> {
 public:
  DownloadStream(const Front& front, grpc::CallbackServerContext* context,
                 const v1::DownloadAdapterRequest& request);
  ~DownloadStream() override;

  void OnWriteDone(bool ok) override;
  void OnDone() override { delete this; }

 private:
  absl::Status Open();  // on the pool
  void SendChunk();     // on the pool

  const Front front_;
  const v1::DownloadAdapterRequest request_;
  v1::AdapterFile file_;
  v1::DownloadChunk chunk_;
  int fd_ = -1;
  int64_t offset_ = 0;
};

}  // namespace finetuned::api
