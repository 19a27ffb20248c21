#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/data/dataset.h"
#include "engine/data/row_file.h"
#include "engine/data/row_hash.h"
#include "engine/data/row_schema.h"

namespace finetuned::data {
namespace {

class Validator {
 public:
  Validator(Method method, const ReadLimits& limits) : method_(method), limits_(limits) {}

  absl::StatusOr<ValidationReport> Run(const std::string& path) {
    auto opened = RowFile::Open(path, limits_, /*hash=*/true);
    if (!opened.ok()) return opened.status();
    RowFile& file = **opened;
    Line line;
    while (true) {
      absl::StatusOr<bool> more = file.Next(&line);
      if (!more.ok()) return more.status();
      if (!*more) break;
      Findings findings(line.number, limits_.max_errors);
      CheckLine(line, &findings);
      Take(findings);
    }
    if (file.file_error()) {
      Findings findings(file.file_error()->line);
      findings.Error("", file.file_error()->reason, file.file_error()->message);
      Take(findings);
    }
    if (absl::Status status = file.reader().Drain(); !status.ok()) return status;
    Finish(&file.reader());
    return std::move(report_);
  }

 private:
  void CheckLine(const Line& line, Findings* findings) {
    JsonRow row;
    if (!ParseLine(line, limits_, &row, findings)) return;
    if (!schema_) {
      schema_ = DetectSchema(row.value, method_, findings);
      if (!schema_) return;
    }
    RowCheckOptions options;
    options.long_text_words = limits_.long_text_words;
    CheckRow(row, *schema_, options, findings);
    if (!findings->ok()) return;
    ++report_.rows;
    if (IsPaired(schema_->format)) {
      ++desirable_;
      ++undesirable_;
    } else if (method_ == Method::kKto) {
      ++(row.value["label"].get<bool>() ? desirable_ : undesirable_);
    }
    const std::string canonical = CanonicalRow(row.value, *schema_);
    if (!seen_.insert(RowHash(canonical)).second) ++report_.duplicate_rows;
  }

  void Take(const Findings& findings) {
    const auto append = [this](const std::vector<RowError>& from, std::vector<RowError>* to) {
      for (const RowError& finding : from) {
        if (static_cast<int>(to->size()) < limits_.max_errors) to->push_back(finding);
      }
    };
    append(findings.errors(), &report_.errors);
    append(findings.warnings(), &report_.warnings);
    report_.error_count += findings.error_count();
    report_.warning_count += findings.warning_count();
  }

  void Finish(LineReader* reader) {
    report_.size_bytes = reader->bytes_read();
    report_.sha256 = reader->Sha256Hex();
    if (schema_) report_.format = SpecOf(schema_->format).name;
    if (method_ == Method::kKto && report_.rows > 0 && (desirable_ == 0 || undesirable_ == 0)) {
      Findings findings(0);
      findings.Warn("label", "ONE_SIDED_LABELS",
                    absl::StrCat("every label is ", desirable_ ? "true" : "false", ": there is no ",
                                 desirable_ ? "undesirable" : "desirable",
                                 " row to learn the difference from"));
      Take(findings);
    }
    report_.ok = report_.error_count == 0;
  }

  const Method method_;
  const ReadLimits limits_;
  ValidationReport report_;
  std::optional<Schema> schema_;
  RowHashSet seen_;
  int64_t desirable_ = 0, undesirable_ = 0;
};

}  // namespace

absl::StatusOr<ValidationReport> ValidateFile(const std::string& path, Method method,
                                              const ReadLimits& limits) {
  return Validator(method, limits).Run(path);
}

}  // namespace finetuned::data
