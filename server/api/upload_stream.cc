#include "server/api/upload_stream.h"

#include "absl/strings/str_cat.h"

namespace finetuned::api {

UploadStream::UploadStream(const Front& front, grpc::CallbackServerContext* context, v1::Dataset* response)
    : front_(front), response_(response) {
  const auto caller = front.authenticator->Identify(*context);
  if (!caller.ok()) {
    End(caller.status());
    return;
  }
  principal_ = caller->principal;
  StartRead(&request_);
}

void UploadStream::OnReadDone(bool ok) {
  front_.shared->quick.Continue([this, ok] { ok ? Write() : Leave(); });
}

void UploadStream::Write() {
  const absl::Status status = Guarded([this] {
    if (upload_ == nullptr) {
      auto upload = front_.shared->uploads.Begin(request_, principal_);
      if (!upload.ok()) return upload.status();
      upload_ = *std::move(upload);
      response_->set_name(absl::StrCat("datasets/", request_.dataset_id()));
    }
    return upload_->Append(request_);
  });
  if (!status.ok()) return End(status);
  if (!request_.finish()) return StartRead(&request_);
  if (!front_.shared->slow.Submit([this] { FinishUpload(); })) {
    End(Unavailable("OVERLOADED", "too many files are being validated; send the last message again",
                    std::chrono::seconds(5)));
  }
}

void UploadStream::FinishUpload() {
  End(Guarded([this] { return Answer(upload_->Finish(), response_); }));
}

void UploadStream::Leave() {
  if (upload_ == nullptr) return End(InvalidField("dataset_id", "is required in the first message"));
  response_->set_state(v1::Dataset::UPLOADING);
  response_->set_size_bytes(upload_->written());
  End(absl::OkStatus());
}

void UploadStream::End(const absl::Status& status) {
  upload_.reset();  // syncs what was written, before the client is told
  Finish(ToGrpc(status));
}

}  // namespace finetuned::api
