#include "server/api/access.h"

#include <unistd.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/api/error.h"
#include "server/api/names.h"
#include "server/jobs/errors.h"

namespace finetuned::api {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// "jobs/x" of "jobs/x/checkpoints/3"; empty: not the name of a resource.
std::string ResourceIn(const std::string& text) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, absl::MaxSplits('/', 2));
  if (parts.size() < 2 || !IsValidId(std::string_view(parts[1].data(), parts[1].size()))) return "";
  if (parts[0] != "jobs" && parts[0] != "datasets" && parts[0] != "adapters") return "";
  return absl::StrCat(parts[0], "/", parts[1]);
}

// Every name of a resource in the message and those below it.
void CollectNames(const Message& message, std::set<std::string>* names) {
  const auto* reflection = message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection->ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    const int count = field->is_repeated() ? reflection->FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
        const std::string text = field->is_repeated() ? reflection->GetRepeatedString(message, field, i)
                                                      : reflection->GetString(message, field);
        if (std::string name = ResourceIn(text); !name.empty()) names->insert(std::move(name));
      } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        CollectNames(field->is_repeated() ? reflection->GetRepeatedMessage(message, field, i)
                                          : reflection->GetMessage(message, field),
                     names);
      }
    }
  }
}

absl::Status Missing(const std::string& name) {
  if (absl::StartsWith(name, "jobs/")) return jobs::NotFound("job", name);
  return NotFound(absl::StartsWith(name, "datasets/") ? "Dataset" : "Adapter", name);
}

}  // namespace

Access::Access(const config::AccessConfig& config, const store::Store* store)
    : own_only_(config.own_only), admins_(config.admins.begin(), config.admins.end()), store_(store) {
  admins_.insert("uid:0");
  admins_.insert(absl::StrCat("uid:", geteuid()));
}

bool Access::SeesAll(const auth::Caller& caller) const {
  return !own_only_ || admins_.contains(caller.principal);
}

bool Access::MaySee(const auth::Caller& caller, const std::string& owner) const {
  return SeesAll(caller) || owner == caller.principal;
}

std::optional<std::string> Access::OwnerOf(const std::string& name) const {
  if (absl::StartsWith(name, "jobs/")) {
    const auto job = store_->GetJob(name);
    return job.ok() ? std::optional<std::string>(job->job.owner()) : std::nullopt;
  }
  if (absl::StartsWith(name, "datasets/")) {
    if (const auto dataset = store_->GetDataset(name); dataset.ok()) return dataset->owner;
    const auto upload = store_->GetUpload(name.substr(name.find('/') + 1));
    return upload.ok() ? std::optional<std::string>(upload->owner) : std::nullopt;
  }
  const auto adapter = store_->GetAdapter(name);
  if (!adapter.ok()) return std::nullopt;
  const auto job = store_->GetJob(adapter->adapter.source_job());
  if (job.ok() && job->job.output_adapter() == name) return job->job.owner();
  return store_->GetValue(store::OwnerKey(name)).value_or("");
}

absl::Status Access::CheckName(const auth::Caller& caller, const std::string& name) const {
  if (SeesAll(caller)) return absl::OkStatus();
  return OwnerOf(name) == caller.principal ? absl::OkStatus() : Missing(name);
}

bool Access::IsRepetition(const auth::Caller& caller, const Message& request) const {
  const FieldDescriptor* field = request.GetDescriptor()->FindFieldByName("request_id");
  if (field == nullptr || field->cpp_type() != FieldDescriptor::CPPTYPE_STRING) return false;
  const std::string id = request.GetReflection()->GetString(request, field);
  // Another method's or request's answer is an error that the handler tells.
  return !id.empty() && !absl::IsNotFound(store_->FindRequest(caller.principal, id, "", "").status());
}

absl::Status Access::Check(const auth::Caller& caller, const Message& request) const {
  if (SeesAll(caller)) return absl::OkStatus();
  std::set<std::string> names;
  CollectNames(request, &names);
  // A new job's name is the daemon's to give: what stands there refers to nothing.
  if (const auto* create = dynamic_cast<const v1::CreateJobRequest*>(&request)) names.erase(create->job().name());
  if (names.empty() || IsRepetition(caller, request)) return absl::OkStatus();
  for (const std::string& name : names) {
    if (absl::Status status = CheckName(caller, name); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Access::CheckAdmin(const auth::Caller& caller, const std::string& what) const {
  if (SeesAll(caller)) return absl::OkStatus();
  return absl::PermissionDeniedError(absl::StrCat(what, " is for the admins of this daemon (access.admins)"));
}

}  // namespace finetuned::api
