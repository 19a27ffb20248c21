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
  caller_ = *caller;
  StartRead(&request_);
}

void UploadStream::OnReadDone(bool ok) {
  front_.shared->quick.Continue([this, ok] { ok ? Write() : Leave(); });
}

absl::Status UploadStream::CheckOwner() const {
  const Access& access = front_.shared->access;
  if (access.SeesAll(caller_)) return absl::OkStatus();
  const std::string name = absl::StrCat("datasets/", request_.dataset_id());
  const auto owner = access.OwnerOf(name);
  if (!owner.has_value() || *owner == caller_.principal) return absl::OkStatus();
  return AlreadyExists("Dataset", name, absl::StrCat(name, " is taken; choose another dataset_id"));
}

void UploadStream::Write() {
  const absl::Status status = Guarded([this] {
    if (upload_ == nullptr) {
      if (absl::Status free = CheckOwner(); !free.ok()) return free;
      auto upload = front_.shared->uploads.Begin(request_, caller_.principal);
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
