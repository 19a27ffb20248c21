#include "server/api/dataset_proto.h"

#include <google/protobuf/util/time_util.h>

#include "absl/strings/str_cat.h"
#include "server/api/error.h"

namespace finetuned::api {
namespace {

void CopyFindings(const std::vector<data::RowError>& from, google::protobuf::RepeatedPtrField<v1::RowError>* to) {
  for (const data::RowError& finding : from) {
    if (to->size() >= kMaxViolations) return;
    v1::RowError* out = to->Add();
    out->set_line(finding.line);
    out->set_field(finding.field);
    out->set_reason(finding.reason);
    out->set_message(finding.message);
  }
}

}  // namespace

absl::StatusOr<data::Method> MethodFromName(const std::string& name) {
  if (name.empty() || name == "sft") return data::Method::kSft;
  if (name == "dpo") return data::Method::kDpo;
  if (name == "kto") return data::Method::kKto;
  if (name == "grpo") return data::Method::kGrpo;
  return InvalidField("method", absl::StrCat("got \"", name.substr(0, 50), "\"; allowed: sft, dpo, kto, grpo"));
}

v1::Dataset ToDataset(const std::string& name, const std::string& method, const data::ValidationReport& report) {
  v1::Dataset out;
  out.set_name(name);
  out.set_method(method);
  out.set_format(report.format);
  out.set_sha256(report.sha256);
  out.set_size_bytes(report.size_bytes);
  out.mutable_stats()->set_rows(report.rows);
  out.mutable_stats()->set_duplicate_rows(report.duplicate_rows);
  out.set_state(report.ok ? v1::Dataset::ACTIVE : v1::Dataset::INVALID);
  CopyFindings(report.errors, out.mutable_errors());
  CopyFindings(report.warnings, out.mutable_warnings());
  out.set_error_count(report.error_count);
  out.set_warning_count(report.warning_count);
  *out.mutable_create_time() = google::protobuf::util::TimeUtil::GetCurrentTime();
  out.set_etag(report.sha256.substr(0, 16));
  return out;
}

v1::DatasetStats ToProto(const data::DatasetStats& stats) {
  v1::DatasetStats out;
  out.set_rows(stats.rows);
  out.set_tokens(stats.tokens);
  out.set_trained_tokens(stats.trained_tokens);
  out.set_max_tokens(stats.max_tokens);
  out.set_p50_tokens(stats.p50_tokens);
  out.set_p95_tokens(stats.p95_tokens);
  out.set_truncated_rows(stats.truncated_rows);
  out.mutable_truncated_row_lines()->Assign(stats.truncated_row_lines.begin(), stats.truncated_row_lines.end());
  out.set_dropped_rows(stats.dropped_rows);
  out.set_duplicate_rows(stats.duplicate_rows);
  for (const auto& [reason, count] : stats.dropped_by_reason) (*out.mutable_dropped_by_reason())[reason] = count;
  out.mutable_length_histogram()->Assign(stats.length_histogram.begin(), stats.length_histogram.end());
  return out;
}

data::TokenizeOptions ToTokenizeOptions(const v1::JobSpec& spec, int64_t max_seq_length) {
  using Loss = data::TokenizeOptions::Loss;
  data::TokenizeOptions options;
  options.max_seq_length = max_seq_length > 0 ? max_seq_length : 1024;
  if (spec.has_dpo() || spec.has_kto()) {
    options.method = spec.has_dpo() ? data::Method::kDpo : data::Method::kKto;
    options.chat_template = spec.has_dpo() ? spec.dpo().chat_template() : spec.kto().chat_template();
    return options;
  }
  const v1::SftSpec& sft = spec.sft();
  if (sft.truncation() == "keep_end") options.truncation = data::Truncation::kKeepEnd;
  if (sft.loss_on() == "all") options.loss = Loss::kAllTokens;
  if (sft.loss_on() == "completion") options.loss = Loss::kCompletionOnly;
  if (sft.loss_on() == "assistant") options.loss = Loss::kAssistantOnly;
  options.chat_template = sft.chat_template();
  return options;
}

}  // namespace finetuned::api
