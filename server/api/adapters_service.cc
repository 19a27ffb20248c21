#include "server/api/adapters_service.h"

#include <filesystem>

#include "engine/job/failpoint.h"
#include "server/api/download_stream.h"
#include "server/api/listing.h"
#include "server/api/sample_stream.h"

namespace finetuned::api {
namespace {

std::optional<std::string> FieldOfAdapter(const v1::Adapter& adapter, const std::string& field) {
  if (field == "base_model") return adapter.base_model();
  if (field == "source_job") return adapter.source_job();
  const auto label = adapter.labels().find(field.substr(std::string_view("labels.").size()));
  if (label == adapter.labels().end()) return std::nullopt;
  return label->second;
}

}  // namespace

absl::StatusOr<store::AdapterRecord> AdaptersService::Find(const std::string& name) const {
  const auto id = ParseName("adapters", name);
  if (!id.ok()) return id.status();
  auto record = store().GetAdapter(name);
  if (absl::IsNotFound(record.status())) return NotFound("Adapter", name);
  return record;
}

grpc::ServerUnaryReactor* AdaptersService::GetAdapter(Context* context, const v1::GetAdapterRequest* request,
                                                      v1::Adapter* response) {
  return api::Unary(front_, context, front_.shared->quick, *request, [=, this](const auth::Caller& caller) {
    auto record = Find(request->name());
    if (!record.ok()) return record.status();
    *response = std::move(record->adapter);
    if (caller.local) response->set_local_path(record->directory);
    return absl::OkStatus();
  });
}

absl::Status AdaptersService::List(const auth::Caller& caller, const v1::ListAdaptersRequest& request,
                                   v1::ListAdaptersResponse* response) const {
  const auto size = PageSize(request.page_size(), 50, 1000);
  if (!size.ok()) return size.status();
  if (!request.order_by().empty() && request.order_by() != "name") {
    return InvalidField("order_by", "allowed: name (default)");
  }
  const auto read = [&](const std::string& after, int limit) {
    auto records = store().ListAdapters(after, limit);
    if (records.ok() && caller.local) {
      for (store::AdapterRecord& record : *records) record.adapter.set_local_path(record.directory);
    }
    return records;
  };
  std::vector<v1::Adapter> found;
  const auto token = ListByName<store::AdapterRecord, v1::Adapter>(
      "adapters", request.filter(), {"base_model", "source_job", "labels."}, request.page_token(), *size, read,
      [](const store::AdapterRecord& r) -> const v1::Adapter& { return r.adapter; }, FieldOfAdapter,
      [&](const store::AdapterRecord& r) {
        const Access& access = front_.shared->access;
        return access.SeesAll(caller) || access.OwnerOf(r.adapter.name()) == caller.principal;
      },
      &found);
  if (!token.ok()) return token.status();
  for (v1::Adapter& adapter : found) *response->add_adapters() = std::move(adapter);
  response->set_next_page_token(*token);
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* AdaptersService::ListAdapters(Context* context, const v1::ListAdaptersRequest* request,
                                                        v1::ListAdaptersResponse* response) {
  return api::Unary(front_, context, front_.shared->quick, *request, [=, this](const auth::Caller& caller) {
    return List(caller, *request, response);
  });
}

absl::Status AdaptersService::Delete(const v1::DeleteAdapterRequest& request,
                                     const std::optional<store::RequestRecord>& remember) const {
  const auto record = Find(request.name());
  if (!record.ok()) return record.status();
  if (!request.etag().empty() && request.etag() != record->adapter.sha256()) {
    return EtagMismatch(request.name(), record->adapter.sha256());
  }
  if (front_.shared->daemon.jobs->UsesAdapter(request.name())) {
    return WrongState(request.name(), "ADAPTER_IN_USE",
                      absl::StrCat("a job that has not ended starts from ", request.name(), "; cancel it first"));
  }
  const absl::Status deleted = store().DeleteAdapter(request.name(), remember);
  if (!deleted.ok()) return deleted;
  FT_FAILPOINT("delete_adapter.committed");
  std::error_code ignored;  // a folder without a row is removed at the next start
  std::filesystem::remove_all(record->directory, ignored);
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* AdaptersService::DeleteAdapter(Context* context, const v1::DeleteAdapterRequest* request,
                                                         google::protobuf::Empty*) {
  return api::Unary(front_, context, front_.shared->quick, *request, [=, this](const auth::Caller& caller) {
    return Once(&store(), caller, "DeleteAdapter", *request,
                [&](const auto& remember) { return Delete(*request, remember); });
  });
}

grpc::ServerWriteReactor<v1::DownloadChunk>* AdaptersService::DownloadAdapter(
    Context* context, const v1::DownloadAdapterRequest* request) {
  return new DownloadStream(front_, context, *request);
}

grpc::ServerWriteReactor<v1::SampleResponse>* AdaptersService::Sample(Context* context,
                                                                      const v1::SampleRequest* request) {
  return new SampleStream(front_, context, *request);
}

}  // namespace finetuned::api
