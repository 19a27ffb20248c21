#include "server/api/datasets_service.h"

#include <unistd.h>

#include "engine/job/failpoint.h"
#include "engine/data/dataset.h"
#include "server/api/dataset_proto.h"
#include "server/api/listing.h"
#include "server/api/upload_stream.h"

namespace finetuned::api {
namespace {

constexpr int kDefaultPreviewRows = 3;
constexpr int kMaxPreviewRows = 100;
constexpr size_t kMaxPreviewBytes = 3 << 20;  // below what clients accept in one message

std::optional<std::string> FieldOfDataset(const v1::Dataset& dataset, const std::string& field) {
  if (field == "state") return v1::Dataset::State_Name(dataset.state());
  if (field == "method") return dataset.method();
  if (field == "format") return dataset.format();
  return dataset.sha256();
}

void CopyRow(const data::PreviewRow& from, v1::PreviewDatasetResponse::Row* to) {
  to->set_index(from.index);
  to->set_line(from.line);
  to->set_text(from.text);
  for (const std::string& token : from.tokens) to->add_tokens(token);
  for (const uint8_t trained : from.trained) to->add_trained(trained != 0);
  if (from.dropped) to->set_drop_reason(from.drop_reason);
}

absl::Status CheckPreview(const v1::PreviewDatasetRequest& request) {
  std::vector<spec::Violation> wrong;
  if (request.base_model().empty()) wrong.push_back({"base_model", "is required: its tokenizer and chat template are used"});
  if (request.max_rows() < 0 || request.max_rows() > kMaxPreviewRows) {
    wrong.push_back({"max_rows", absl::StrCat("must be 0 to ", kMaxPreviewRows, ", got ", request.max_rows())});
  }
  if (request.start_row() < 0) wrong.push_back({"start_row", "must not be negative"});
  if (request.max_seq_length() < 0 || request.max_seq_length() > 16'777'216) {
    wrong.push_back({"max_seq_length", "must be 0 to 16777216"});
  }
  v1::JobSpec spec;  // borrow the checks of a job's sft fields
  *spec.mutable_sft() = request.sft();
  for (spec::Violation& violation : spec::ValidateSpec(spec)) {
    if (violation.path.starts_with("job.spec.sft.")) wrong.push_back({violation.path.substr(9), violation.message});
  }
  return wrong.empty() ? absl::OkStatus() : InvalidFields(wrong);
}

}  // namespace

grpc::ServerReadReactor<v1::UploadDatasetRequest>* DatasetsService::UploadDataset(Context* context,
                                                                                  v1::Dataset* response) {
  return new UploadStream(front_, context, response);
}

grpc::ServerUnaryReactor* DatasetsService::GetUploadStatus(Context* context,
                                                           const v1::GetUploadStatusRequest* request,
                                                           v1::UploadStatus* response) {
  return api::Unary(front_, context, front_.shared->quick, *request, [=, this](const auth::Caller& caller) {
    const absl::Status seen = front_.shared->access.CheckName(caller, "datasets/" + request->dataset_id());
    if (IsValidId(request->dataset_id()) && !seen.ok()) return seen;
    return Answer(front_.shared->uploads.Status(request->dataset_id()), response);
  });
}

absl::StatusOr<v1::Dataset> DatasetsService::Find(const std::string& name) const {
  const auto id = ParseName("datasets", name);
  if (!id.ok()) return id.status();
  auto record = store().GetDataset(name);
  if (absl::IsNotFound(record.status())) return NotFound("Dataset", name);
  if (!record.ok()) return record.status();
  return std::move(record->dataset);
}

grpc::ServerUnaryReactor* DatasetsService::GetDataset(Context* context, const v1::GetDatasetRequest* request,
                                                      v1::Dataset* response) {
  return api::Unary(front_, context, front_.shared->quick, *request,
                    [=, this](const auth::Caller&) { return Answer(Find(request->name()), response); });
}

absl::Status DatasetsService::List(const auth::Caller& caller, const v1::ListDatasetsRequest& request,
                                   v1::ListDatasetsResponse* response) const {
  const auto size = PageSize(request.page_size(), 50, 1000);
  if (!size.ok()) return size.status();
  std::vector<v1::Dataset> found;
  const auto token = ListByName<store::DatasetRecord, v1::Dataset>(
      "datasets", request.filter(), {"state", "method", "format", "sha256"}, request.page_token(), *size,
      [this](const std::string& after, int limit) { return store().ListDatasets(after, limit); },
      [](const store::DatasetRecord& r) -> const v1::Dataset& { return r.dataset; }, FieldOfDataset,
      [&](const store::DatasetRecord& r) { return front_.shared->access.MaySee(caller, r.owner); }, &found);
  if (!token.ok()) return token.status();
  for (v1::Dataset& dataset : found) *response->add_datasets() = std::move(dataset);
  response->set_next_page_token(*token);
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* DatasetsService::ListDatasets(Context* context, const v1::ListDatasetsRequest* request,
                                                        v1::ListDatasetsResponse* response) {
  return api::Unary(front_, context, front_.shared->quick, *request,
                    [=, this](const auth::Caller& caller) { return List(caller, *request, response); });
}

absl::Status DatasetsService::Delete(const v1::DeleteDatasetRequest& request,
                                     const std::optional<store::RequestRecord>& remember) const {
  const auto dataset = Find(request.name());
  if (!dataset.ok()) return dataset.status();
  if (!request.etag().empty() && request.etag() != dataset->etag()) {
    return EtagMismatch(request.name(), dataset->etag());
  }
  if (front_.shared->daemon.jobs->UsesDataset(request.name())) {
    return WrongState(request.name(), "DATASET_IN_USE",
                      absl::StrCat("a job that has not ended needs ", request.name(), "; cancel it first"));
  }
  const absl::Status deleted = store().DeleteDataset(request.name(), remember);
  if (!deleted.ok()) return deleted;
  FT_FAILPOINT("delete_dataset.committed");
  front_.shared->uploads.DropFile(dataset->sha256());
  FT_FAILPOINT("delete_dataset.file");
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* DatasetsService::DeleteDataset(Context* context, const v1::DeleteDatasetRequest* request,
                                                         google::protobuf::Empty*) {
  return api::Unary(front_, context, front_.shared->quick, *request, [=, this](const auth::Caller& caller) {
    return Once(&store(), caller, "DeleteDataset", *request,
                [&](const auto& remember) { return Delete(*request, remember); });
  });
}

absl::Status DatasetsService::Preview(const v1::PreviewDatasetRequest& request,
                                      v1::PreviewDatasetResponse* response) const {
  const absl::Status checked = CheckPreview(request);
  if (!checked.ok()) return checked;
  const auto dataset = Find(request.name());
  if (!dataset.ok()) return dataset.status();
  if (dataset->state() != v1::Dataset::ACTIVE) {
    return WrongState(request.name(), "INVALID_DATASET", absl::StrCat(request.name(), " has errors; see GetDataset"));
  }
  v1::JobSpec spec;  // as a job with this dataset would tokenize it
  if (dataset->method() == "dpo") {
    spec.mutable_dpo()->set_chat_template(request.sft().chat_template());
  } else if (dataset->method() == "kto") {
    spec.mutable_kto()->set_chat_template(request.sft().chat_template());
  } else if (dataset->method() == "sft") {
    *spec.mutable_sft() = request.sft();
  } else {
    return NotAvailable("name", absl::StrCat("previews of ", dataset->method(), " datasets are not in this version"));
  }
  const auto model = front_.shared->models.Open(request.base_model(), "base_model");
  if (!model.ok()) return model.status();
  const auto tokenizer = (*model)->Tokenizer();
  if (!tokenizer.ok()) return tokenizer.status();
  const int max_rows = request.max_rows() == 0 ? kDefaultPreviewRows : request.max_rows();
  const auto rows = data::PreviewFile(store().layout().DatasetFile(dataset->sha256()), **tokenizer,
                                      (*model)->source().chat_template(),
                                      ToTokenizeOptions(spec, request.max_seq_length()),
                                      request.start_row(), max_rows);
  if (!rows.ok()) return rows.status();
  size_t bytes = 0;
  for (size_t i = 0; i < rows->size(); ++i) {
    auto* row = response->add_rows();
    CopyRow((*rows)[i], row);
    bytes += row->ByteSizeLong();
    if (bytes > kMaxPreviewBytes && response->rows_size() > 1) {
      response->mutable_rows()->RemoveLast();
      break;
    }
  }
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* DatasetsService::PreviewDataset(Context* context,
                                                          const v1::PreviewDatasetRequest* request,
                                                          v1::PreviewDatasetResponse* response) {
  return api::Unary(front_, context, front_.shared->slow, *request,
                    [=, this](const auth::Caller&) { return Preview(*request, response); });
}

}  // namespace finetuned::api
