#include "server/api/token_count.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "engine/data/dataset.h"
#include "engine/data/prompts.h"
#include "engine/plan/memory_plan.h"
#include "engine/reward/reward_set.h"
#include "server/api/dataset_proto.h"
#include "server/api/error.h"
#include "server/api/job_planner.h"

namespace finetuned::api {
namespace {

constexpr int64_t kWholeFileBytes = 8 << 20;  // files up to this are tokenized completely
constexpr int64_t kSampleBytes = 2 << 20;     // of larger ones this much
constexpr int kThreads = 2;
constexpr int64_t kMegabyte = 1'000'000;

data::TokenizeOptions OptionsOf(const PlannedJob& job) {
  return ToTokenizeOptions(job.resolved, job.resolved.schedule().max_seq_length());
}

// The rewards were checked.
data::PromptOptions PromptOptionsOf(const PlannedJob& job) {
  const v1::GrpoSpec& grpo = job.resolved.grpo();
  data::PromptOptions options;
  options.max_tokens = job.resolved.schedule().max_seq_length() - grpo.max_completion_tokens();
  options.chat_template = grpo.chat_template();
  options.system_prompt = grpo.system_prompt();
  for (const v1::BuiltinReward& r : grpo.builtin_rewards()) {
    const auto reward = reward::MakeReward(r.name(), {r.args().begin(), r.args().end()});
    if (!reward.ok()) continue;
    for (const std::string& column : (*reward)->columns()) options.required_columns.emplace(column, r.name());
  }
  return options;
}

absl::Status DatasetProblem(const absl::Status& status) {
  if (status.code() != absl::StatusCode::kInvalidArgument) return status;
  return InvalidField("job.spec.dataset", WithoutPaths(std::string(status.message())));
}

// The whole lines among the first `bytes` of a file, as a file without a name. -1: cannot be made.
int CopyBeginning(const std::string& path, int64_t bytes, int64_t* copied) {
  const int in = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (in < 0) return -1;
  const absl::Cleanup close_in = [in] { close(in); };
  std::string data(static_cast<size_t>(bytes), '\0');
  const ssize_t n = pread(in, data.data(), data.size(), 0);
  if (n <= 0) return -1;
  data.resize(static_cast<size_t>(n));
  const size_t end = data.rfind('\n');
  if (end == std::string::npos) return -1;
  data.resize(end + 1);
  const int out = memfd_create("rows", MFD_CLOEXEC);
  if (out >= 0 && write(out, data.data(), data.size()) != static_cast<ssize_t>(data.size())) {
    close(out);
    return -1;
  }
  *copied = static_cast<int64_t>(data.size());
  return out;
}

void Scale(double factor, v1::DatasetStats* stats) {
  const auto scaled = [factor](int64_t n) { return static_cast<int64_t>(std::llround(factor * static_cast<double>(n))); };
  stats->set_tokens(scaled(stats->tokens()));
  stats->set_trained_tokens(scaled(stats->trained_tokens()));
  stats->set_truncated_rows(scaled(stats->truncated_rows()));
  stats->set_dropped_rows(scaled(stats->dropped_rows()));
  for (auto& [reason, count] : *stats->mutable_dropped_by_reason()) count = scaled(count);
  for (int64_t& count : *stats->mutable_length_histogram()) count = scaled(count);
}

absl::StatusOr<data::DatasetStats> StatsOf(const PlannedJob& job, const std::string& path,
                                          const text::Tokenizer& tokenizer) {
  const std::string& chat_template = job.model->source().chat_template();
  if (job.resolved.has_grpo()) {
    auto prompts = data::LoadPrompts(path, tokenizer, chat_template, PromptOptionsOf(job));
    if (!prompts.ok()) return prompts.status();
    return std::move(prompts->stats);
  }
  auto rows = data::TokenizeFile(path, tokenizer, chat_template, OptionsOf(job), kThreads);
  if (!rows.ok()) return rows.status();
  return std::move(rows->stats);
}

}  // namespace

absl::Status CheckFirstRow(const PlannedJob& job) {
  const auto tokenizer = job.model->Tokenizer();
  if (!tokenizer.ok()) return tokenizer.status();
  if (job.resolved.has_grpo()) {
    data::PromptOptions options = PromptOptionsOf(job);
    options.max_rows = 1;
    options.max_tokens = job.resolved.schedule().max_seq_length();  // a long one is left out, not refused
    const auto prompts = data::LoadPrompts(job.dataset_path, **tokenizer, job.model->source().chat_template(), options);
    return prompts.ok() ? absl::OkStatus() : DatasetProblem(prompts.status());
  }
  const auto rows = data::PreviewFile(job.dataset_path, **tokenizer, job.model->source().chat_template(),
                                      OptionsOf(job), /*first_row=*/0, /*max_rows=*/1);
  return rows.ok() ? absl::OkStatus() : DatasetProblem(rows.status());
}

absl::StatusOr<TokenCount> CountTokens(const PlannedJob& job) {
  const auto tokenizer = job.model->Tokenizer();
  if (!tokenizer.ok()) return tokenizer.status();
  const int64_t size = job.dataset.size_bytes();
  std::string path = job.dataset_path;
  int64_t read = size;
  int sample = -1;
  if (size > kWholeFileBytes) sample = CopyBeginning(path, kSampleBytes, &read);
  const absl::Cleanup close_sample = [sample] {
    if (sample >= 0) close(sample);
  };
  if (sample >= 0) path = absl::StrCat("/proc/self/fd/", sample);
  const auto stats = StatsOf(job, path, **tokenizer);
  if (!stats.ok()) return DatasetProblem(stats.status());
  TokenCount out{ToProto(*stats), {}};
  if (sample >= 0) {
    Scale(static_cast<double>(size) / static_cast<double>(read), &out.stats);
    out.stats.set_rows(job.dataset.stats().rows());
    out.stats.set_duplicate_rows(job.dataset.stats().duplicate_rows());
    out.warnings.push_back(absl::StrCat("token counts are estimated from the first ", read / kMegabyte, " of ",
                                        size / kMegabyte, " MB"));
  }
  if (out.stats.truncated_rows() > 0) {
    out.warnings.push_back(absl::StrCat(out.stats.truncated_rows(), " of ", out.stats.rows(),
                                        " rows are longer than max_seq_length ",
                                        job.resolved.schedule().max_seq_length(), " and will be cut"));
  }
  for (const auto& [reason, count] : out.stats.dropped_by_reason()) {
    out.warnings.push_back(absl::StrCat(count, " rows will not be trained on: ", reason));
  }
  return out;
}

int64_t EstimateDisk(const PlannedJob& job) {
  const int64_t parameters = plan::CountLoraParameters(job.input);
  // Adapter in float32 and two optimizer moments of 4 bytes, or of 1 byte.
  const int64_t checkpoint = parameters * (4 + (job.input.optimizer == plan::Optimizer::kAdamW ? 8 : 2));
  return (job.resolved.checkpoints().keep_last() + 1) * checkpoint + parameters * 4;
}

double EstimateSeconds(const PlannedJob& job, const v1::DatasetStats& stats) {
  if (job.tokens_per_second <= 0 || stats.rows() == 0) return 0;
  const double mean = static_cast<double>(stats.tokens()) / static_cast<double>(stats.rows());
  const v1::ScheduleSpec& schedule = job.resolved.schedule();
  double tokens = static_cast<double>(stats.tokens()) * schedule.epochs();
  if (schedule.length_case() == v1::ScheduleSpec::kMaxSteps) {
    const double per_row = job.resolved.sft().packing() ? schedule.max_seq_length() : mean;
    tokens = static_cast<double>(schedule.max_steps()) * schedule.micro_batch_size() *
             schedule.gradient_accumulation_steps() * per_row;
  }
  return tokens / job.tokens_per_second;
}

}  // namespace finetuned::api
