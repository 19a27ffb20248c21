#include "server/api/sample_plan.h"

#include <cmath>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "server/api/error.h"
#include "server/api/names.h"

namespace finetuned::api {
namespace {

constexpr int32_t kDefaultTokens = 256, kMostTokens = 32768, kMostSamples = 64, kMostStops = 16;
constexpr size_t kMostPromptBytes = 1 << 20, kMostStopBytes = 256;

// Fields left out get what turns them off, but max_tokens and num_samples.
void FillDefaults(v1::SampleRequest* r) {
  if (r->max_tokens() == 0) r->set_max_tokens(kDefaultTokens);
  if (r->num_samples() == 0) r->set_num_samples(1);
  if (r->top_p() == 0) r->set_top_p(1);
  if (r->repetition_penalty() == 0) r->set_repetition_penalty(1);
}

std::vector<spec::Violation> Violations(const v1::SampleRequest& r) {
  std::vector<spec::Violation> found;
  const auto check = [&](bool good, const char* field, const auto& value, const char* allowed) {
    if (!good) found.push_back({field, absl::StrCat("is ", value, ", must be ", allowed)});
  };
  const auto within = [](double x, double low, double high) { return std::isfinite(x) && x >= low && x <= high; };
  if (r.target_case() == v1::SampleRequest::TARGET_NOT_SET) {
    found.push_back({"target", "set one of adapter, checkpoint, base_model"});
  }
  if (r.prompt().empty()) found.push_back({"prompt", "is empty"});
  check(r.prompt().size() + r.system_prompt().size() <= kMostPromptBytes, "prompt", r.prompt().size(),
        "at most 1 MiB with the system prompt");
  check(!r.raw() || r.system_prompt().empty(), "system_prompt", "set", "empty when raw is set");
  check(r.max_tokens() >= 1 && r.max_tokens() <= kMostTokens, "max_tokens", r.max_tokens(), "between 1 and 32768");
  check(r.num_samples() >= 1 && r.num_samples() <= kMostSamples, "num_samples", r.num_samples(), "between 1 and 64");
  check(r.temperature() == 0 || within(r.temperature(), 1e-3, 100), "temperature", r.temperature(),
        "0 (greedy) or between 0.001 and 100");
  check(within(r.top_p(), 0, 1) && r.top_p() > 0, "top_p", r.top_p(), "above 0 and at most 1");
  check(r.top_k() >= 0, "top_k", r.top_k(), "0 (all) or above");
  check(within(r.min_p(), 0, 1), "min_p", r.min_p(), "between 0 and 1");
  check(within(r.repetition_penalty(), 0.01, 100), "repetition_penalty", r.repetition_penalty(),
        "between 0.01 and 100");
  check(r.stop_size() <= kMostStops, "stop", r.stop_size(), "at most 16 strings");
  for (const std::string& stop : r.stop()) {
    check(!stop.empty() && stop.size() <= kMostStopBytes, "stop", absl::StrCat(stop.size(), " bytes long"),
          "1 to 256 bytes long");
  }
  return found;
}

// A base without a job: how jobs store it by default.
v1::JobSpec SpecOfBase(const std::string& base_model) {
  v1::JobSpec spec;
  spec.set_base_model(base_model);
  spec.mutable_quantization()->set_base("nf4");
  spec.mutable_compute()->set_dtype("auto");
  spec.mutable_compute()->set_device("auto");
  return spec;
}

absl::Status UseAdapter(const store::Store& store, const std::string& name, internal::v1::RunSample* out) {
  const auto id = ParseName("adapters", name, "adapter");
  if (!id.ok()) return id.status();
  const auto record = store.GetAdapter(name);
  if (absl::IsNotFound(record.status())) return NotFound("Adapter", name);
  if (!record.ok()) return record.status();
  if (record->adapter.sha256().empty()) {
    return InvalidField("adapter", absl::StrCat(name, " is an export without adapter files; sample what it was made of"));
  }
  out->set_adapter_dir(record->directory);
  const auto job = store.GetJob(record->adapter.source_job());
  *out->mutable_spec() = job.ok() ? job->job.resolved_spec() : SpecOfBase(record->adapter.base_model());
  return absl::OkStatus();
}

absl::Status UseCheckpoint(const store::Store& store, const std::string& name, internal::v1::RunSample* out) {
  const std::vector<std::string> parts = absl::StrSplit(name, '/');
  int64_t step = 0;
  if (parts.size() != 4 || parts[0] != "jobs" || parts[2] != "checkpoints" || !absl::SimpleAtoi(parts[3], &step)) {
    return InvalidField("checkpoint", "must be jobs/{job}/checkpoints/{step}");
  }
  const auto id = ParseName("jobs", absl::StrCat("jobs/", parts[1]), "checkpoint");
  if (!id.ok()) return id.status();
  const auto job = store.GetJob(absl::StrCat("jobs/", parts[1]));
  if (absl::IsNotFound(job.status())) return NotFound("Job", absl::StrCat("jobs/", parts[1]));
  if (!job.ok()) return job.status();
  const std::string directory =
      absl::StrFormat("%s/checkpoints/step-%08d", store.layout().JobDir(job->job.uid()), step);
  std::error_code error;
  if (!std::filesystem::exists(directory + "/adapter_config.json", error)) return NotFound("Checkpoint", name);
  out->set_adapter_dir(directory);
  *out->mutable_spec() = job->job.resolved_spec();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<internal::v1::RunSample> PlanSample(Shared* shared, const v1::SampleRequest& request) {
  internal::v1::RunSample out;
  v1::SampleRequest* r = out.mutable_request();
  *r = request;
  FillDefaults(r);
  if (const auto violations = Violations(*r); !violations.empty()) return InvalidFields(violations);
  const store::Store& store = *shared->daemon.store;
  absl::Status status;
  const char* field = "base_model";
  switch (r->target_case()) {
    case v1::SampleRequest::kAdapter:
      status = UseAdapter(store, r->adapter(), &out);
      field = "adapter";
      break;
    case v1::SampleRequest::kCheckpoint:
      status = UseCheckpoint(store, r->checkpoint(), &out);
      field = "checkpoint";
      break;
    default:
      *out.mutable_spec() = SpecOfBase(r->base_model());
      break;
  }
  if (!status.ok()) return status;
  const auto model = shared->models.Open(out.spec().base_model(), field);
  if (!model.ok()) return model.status();
  out.set_base_model_path((*model)->path());
  const std::string& stored = (*model)->source().config().stored_base;
  if (r->adapter().empty() && r->checkpoint().empty() && !stored.empty()) {
    out.mutable_spec()->mutable_quantization()->set_base(stored);  // as the file has it
  }
  const bool has_template =
      !out.spec().sft().chat_template().empty() || !(*model)->source().chat_template().empty();
  if (!r->raw() && !has_template) {
    return InvalidField("raw", "the model has no chat template; set raw to continue the prompt as it is");
  }
  return out;
}

}  // namespace finetuned::api
