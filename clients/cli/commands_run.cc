#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <optional>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "clients/cli/commands.h"
#include "clients/cli/job_text.h"
#include "clients/cli/preference_flags.h"
#include "clients/cli/scheduling_flags.h"
#include "clients/cli/term.h"
#include "clients/cli/terminal.h"
#include "clients/cli/upload.h"
#include "clients/cli/grpo_flags.h"
#include "clients/cli/watch.h"
#include "proto/spec/job_file.h"

namespace finetuned::cli {
namespace {

// Flags of `run` and `plan`; unset ones are left to the daemon.
struct RunFlags {
  std::string method = "sft";
  std::string model, data, eval, init_adapter, name, loss_on, scheduler, optimizer, quantization, precision, device, bias;
  std::optional<int32_t> standing_layers;
  double epochs = 0, learning_rate = 0, alpha = 0, dropout = 0, warmup_ratio = 0, every_minutes = 0;
  int64_t max_steps = 0, every_steps = 0, eval_every = 0;
  int rank = 0, micro_batch = 0, accumulation = 0, sequence = 0;
  std::vector<std::string> targets, new_tokens;
  uint64_t seed = 0;
  bool has_seed = false, packing = false, checkpointing = false, detach = false;
  bool eval_first = false, deterministic = false, keep_best = false, dora = false;
  int early_stopping = 0, sample_prompts = 0;
  SchedulingFlags scheduling;
  PreferenceFlags preference;
  GrpoFlags grpo;
  std::string file;  // job file instead of flags
  std::string shape, vram;  // plan: a well-known model without its file, and the memory to plan for
};

void AddSpecFlags(CLI::App* c, RunFlags* f) {
  c->add_option("--model", f->model, "Base model: a name the daemon knows, or a path below a model root");
  c->add_option("--data", f->data, "Training rows: a JSONL file, or datasets/NAME");
  c->add_option("--eval", f->eval, "Held-out rows: a JSONL file, or datasets/NAME");
  c->add_option("--name", f->name, "Job id, [a-z][a-z0-9-]{2,62}");
  c->add_option("--epochs", f->epochs, "Passes over the data (default 3)");
  c->add_option("--max-steps", f->max_steps, "Optimizer steps instead of epochs");
  c->add_option("--lr", f->learning_rate, "Learning rate (default 2e-4; dpo, kto, grpo: 1e-6)");
  c->add_option("--scheduler", f->scheduler, "linear, cosine, constant, ...");
  c->add_option("--warmup-ratio", f->warmup_ratio, "Share of the steps that warm up");
  c->add_option("--optimizer", f->optimizer, "adamw_8bit (default) or adamw");
  c->add_option("--rank", f->rank, "LoRA rank (default 16)");
  c->add_option("--alpha", f->alpha, "LoRA alpha (default 2 x rank)");
  c->add_option("--bias", f->bias, "Biases of the base that train: none, lora_only, all");
  c->add_option("--new-tokens", f->new_tokens, "Texts that become tokens; embedding and head train then")->delimiter(',');
  c->add_flag("--dora", f->dora, "Train the magnitude of outputs apart from their direction");
  c->add_option("--dropout", f->dropout, "LoRA dropout");
  c->add_option("--targets", f->targets, "Linears to adapt (default all-linear)")->delimiter(',');
  c->add_option("--micro-batch-size", f->micro_batch, "Rows in one pass");
  c->add_option("--gradient-accumulation-steps", f->accumulation, "Passes per optimizer step");
  c->add_option("--max-seq-length", f->sequence, "Longest row in tokens");
  c->add_option("--base-quantization", f->quantization, "nf4 (default), fp4, int8, fp8 or none");
  c->add_option("--standing-layers", f->standing_layers, "Layers whose weights stay dequantized (default what pays)");
  c->add_option("--matmul-precision", f->precision, "Of the frozen products: bf16 (default), fp8 or int8");
  c->add_option("--device", f->device, "auto (default), cuda or cpu");
  c->add_option("--seed", f->seed, "Seed (default 42)")->each([f](const std::string&) { f->has_seed = true; });
  c->add_option("--checkpoint-every", f->every_steps, "Steps between checkpoints");
  c->add_option("--checkpoint-minutes", f->every_minutes, "Minutes between checkpoints");
  c->add_option("--init-adapter", f->init_adapter, "Start from this adapter: adapters/NAME");
  c->add_option("--sample-prompts", f->sample_prompts, "Held-out prompts to answer at each evaluation");
  c->add_option("--eval-every", f->eval_every, "Steps between evaluations");
  c->add_flag("--keep-best", f->keep_best, "Keep and export the adapter of the best evaluation");
  c->add_option("--early-stopping", f->early_stopping, "Stop after this many evaluations without a better one");
  c->add_flag("--eval-first", f->eval_first, "Also evaluate before the first step");
  AddSchedulingFlags(c, &f->scheduling);
  c->add_flag("--activation-checkpointing", f->checkpointing, "Recompute activations: less memory");
  c->add_flag("--deterministic", f->deterministic, "Bit-equal results");
}

void AddSftFlags(CLI::App* c, RunFlags* f) {
  c->add_option("--loss-on", f->loss_on, "auto, all, completion or assistant");
  c->add_flag("--packing", f->packing, "Pack rows into full sequences");
}

void SetMethod(const RunFlags& f, v1::JobSpec* spec) {
  if (f.method == "dpo") {
    *spec->mutable_dpo() = DpoFromFlags(f.preference);
  } else if (f.method == "kto") {
    *spec->mutable_kto() = KtoFromFlags(f.preference);
  } else if (f.method == "grpo") {
    FillGrpo(f.grpo, spec->mutable_grpo());
  } else {
    spec->mutable_sft()->set_loss_on(f.loss_on);
    spec->mutable_sft()->set_packing(f.packing);
  }
}

v1::Job JobFromFlags(const RunFlags& f) {
  v1::Job job;
  v1::JobSpec* spec = job.mutable_spec();
  spec->set_base_model(f.model);
  spec->set_dataset(f.data);
  spec->set_eval_dataset(f.eval);
  spec->set_init_adapter(f.init_adapter);
  SetMethod(f, spec);
  v1::LoraSpec* lora = spec->mutable_lora();
  lora->set_rank(f.rank);
  lora->set_use_dora(f.dora);
  lora->set_bias(f.bias);
  for (const std::string& t : f.new_tokens) lora->add_new_tokens(t);
  if (f.alpha != 0) lora->set_alpha(f.alpha);
  lora->set_dropout(f.dropout);
  for (const std::string& t : f.targets) lora->add_target_modules(t);
  v1::OptimizerSpec* optimizer = spec->mutable_optimizer();
  optimizer->set_kind(f.optimizer);
  if (f.learning_rate != 0) optimizer->set_learning_rate(f.learning_rate);
  optimizer->set_scheduler(f.scheduler);
  optimizer->set_warmup_ratio(f.warmup_ratio);
  v1::ScheduleSpec* schedule = spec->mutable_schedule();
  if (f.max_steps != 0) {
    schedule->set_max_steps(f.max_steps);
  } else if (f.epochs != 0) {
    schedule->set_epochs(f.epochs);
  }
  schedule->set_micro_batch_size(f.micro_batch);
  schedule->set_gradient_accumulation_steps(f.accumulation);
  schedule->set_max_seq_length(f.sequence);
  spec->mutable_checkpoints()->set_every_steps(f.every_steps);
  if (f.every_minutes > 0) {
    spec->mutable_checkpoints()->mutable_every()->set_seconds(std::llround(f.every_minutes * 60));
  }
  spec->mutable_evaluation()->set_every_steps(f.eval_every);
  spec->mutable_evaluation()->set_before_training(f.eval_first);
  spec->mutable_evaluation()->set_sample_prompts(f.sample_prompts);
  spec->mutable_evaluation()->set_early_stopping_patience(f.early_stopping);
  spec->mutable_checkpoints()->set_keep_best(f.keep_best);
  spec->mutable_quantization()->set_base(f.quantization);
  if (f.standing_layers.has_value()) spec->mutable_quantization()->set_standing_layers(*f.standing_layers);
  spec->mutable_compute()->set_device(f.device);
  spec->mutable_compute()->set_matmul_precision(f.precision);
  if (f.checkpointing) spec->mutable_compute()->set_activation_checkpointing("on");
  if (f.has_seed) spec->set_seed(f.seed);
  spec->set_deterministic(f.deterministic);
  if (!f.name.empty()) job.set_name(ResourceName("jobs", f.name));
  return job;
}

v1::Job LoadJob(const RunFlags& f, std::string* base_dir) {
  if (f.file.empty()) return JobFromFlags(f);
  std::stringstream text;
  if (f.file == "-") {
    text << std::cin.rdbuf();
  } else {
    std::ifstream in(f.file, std::ios::binary);
    if (!in) throw CommandError{kUsage, absl::StrCat("cannot read ", f.file)};
    text << in.rdbuf();
    *base_dir = std::filesystem::path(f.file).parent_path().string();
  }
  absl::StatusOr<v1::Job> job = spec::ParseJobFile(text.str(), f.file);
  if (!job.ok()) throw CommandError{kUsage, std::string(job.status().message())};
  return *std::move(job);
}

// Replaces local paths by uploaded datasets and short model names by resource names.
void Prepare(const Client& client, const std::string& base_dir, v1::Job* job) {
  v1::JobSpec* spec = job->mutable_spec();
  const std::string& model = spec->base_model();
  if (!model.empty() && model.find('/') == std::string::npos && model.find('.') == std::string::npos) {
    spec->set_base_model(ResourceName("models", model));
  }
  const std::string method = spec->method_case() == v1::JobSpec::METHOD_NOT_SET ? "sft" : MethodName(*spec);
  spec->set_dataset(DatasetName(client, spec->dataset(), method, base_dir));
  spec->set_eval_dataset(DatasetName(client, spec->eval_dataset(), method, base_dir));
}

ExitCode Submit(App& app, const RunFlags& f, bool watch) {
  Client client(app.connect);
  std::string base_dir;
  v1::CreateJobRequest request;
  *request.mutable_job() = LoadJob(f, &base_dir);
  ApplyScheduling(f.scheduling, request.mutable_job()->mutable_scheduling());
  Prepare(client, base_dir, request.mutable_job());
  if (!request.job().name().empty()) request.set_job_id(ShortName(request.job().name()));
  request.mutable_job()->clear_name();
  request.set_request_id(NewRequestId());
  v1::Job job;
  auto context = client.Context(60);
  Check(client.jobs->CreateJob(context.get(), request, &job), client);
  const bool live = StdoutIsTerminal();
  if (!watch && app.output != "table") {
    PrintMessage(job, app.output);
    return kOk;
  }
  if (live || !watch) std::cout << job.name() << " " << StateName(job.state()) << "\n";
  if (!watch) return kOk;
  return WatchJob(client, job.name(), live ? WatchOutput::kLive : WatchOutput::kJson, false);
}

// "24GB", "23.5 GiB", "900MB".
int64_t ParseBytes(const std::string& text) {
  constexpr struct {
    const char* unit;
    double bytes;
  } kUnits[] = {{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"GB", 1e9}, {"MB", 1e6}};
  for (const auto& [unit, bytes] : kUnits) {
    double number = 0;
    if (absl::EndsWith(text, unit) && absl::SimpleAtod(text.substr(0, text.size() - std::strlen(unit)), &number) &&
        number > 0) {
      return static_cast<int64_t>(number * bytes);
    }
  }
  throw CommandError{kUsage, absl::StrCat("--vram: ", text, " is not a size such as 24GB or 23.5GiB")};
}

// The device's share of a plan.
std::string BudgetLine(const v1::MemoryEstimate& memory) {
  std::string line = absl::StrCat("budget ", FormatBytes(static_cast<double>(memory.budget_bytes())));
  if (memory.other_processes_bytes() > 0) {
    absl::StrAppend(&line, " (other processes hold ", FormatBytes(static_cast<double>(memory.other_processes_bytes())),
                    ")");
  }
  return line + "\n";
}

void PrintPlan(const v1::JobPlan& plan) {
  std::vector<std::vector<std::string>> rows = {{"COMPONENT", "BUFFER", "BYTES"}};
  for (const auto& item : plan.memory().items()) {
    rows.push_back({item.component(), item.name(), FormatBytes(static_cast<double>(item.bytes()))});
  }
  rows.push_back({"total", "", FormatBytes(static_cast<double>(plan.memory().total_bytes()))});
  std::cout << Table(rows);
  if (plan.memory().budget_bytes() > 0) {
    std::cout << BudgetLine(plan.memory());
  }
  if (plan.memory().host_bytes() > 0) {
    std::cout << "host memory " << FormatBytes(static_cast<double>(plan.memory().host_bytes())) << "\n";
  }
  for (const auto& c : plan.choices()) {
    std::cout << "chosen " << c.field() << " = " << c.value() << ": " << c.reason() << "\n";
  }
  const auto& stats = plan.dataset_stats();
  if (stats.rows() > 0) {
    std::cout << "data " << FormatCount(static_cast<double>(stats.rows())) << " rows, "
              << FormatCount(static_cast<double>(stats.tokens())) << " tokens ("
              << FormatCount(static_cast<double>(stats.trained_tokens())) << " train), longest "
              << stats.max_tokens() << ", truncated " << stats.truncated_rows() << ", dropped "
              << stats.dropped_rows() << "\n";
  }
  if (plan.estimated_duration().seconds() > 0) {
    std::cout << "about " << FormatDuration(static_cast<double>(plan.estimated_duration().seconds())) << "\n";
  }
  if (plan.estimated_tokens_per_second() > 0) {
    std::cout << "about " << FormatCount(plan.estimated_tokens_per_second()) << " tokens/s\n";
  }
  std::cout << "disk " << FormatBytes(static_cast<double>(plan.estimated_disk_bytes())) << "\n";
  for (const auto& w : plan.warnings()) std::cout << "warning: " << Printable(w) << "\n";
  for (const auto& p : plan.problems()) std::cout << "problem: " << Printable(p.message()) << "\n";
  for (const auto& s : plan.suggestions()) std::cout << "fits: " << s.message() << "\n";
  std::cout << (plan.admissible() ? "This job would be accepted.\n" : "This job would be refused.\n");
}

ExitCode Plan(App& app, const RunFlags& f) {
  Client client(app.connect);
  std::string base_dir;
  v1::PlanJobRequest request;
  *request.mutable_job() = LoadJob(f, &base_dir);
  if (!f.shape.empty()) request.mutable_job()->mutable_spec()->set_base_model(absl::StrCat("shapes/", f.shape));
  if (!f.vram.empty()) request.mutable_job()->mutable_scheduling()->set_vram_limit_bytes(ParseBytes(f.vram));
  Prepare(client, base_dir, request.mutable_job());
  v1::JobPlan plan;
  auto context = client.Context(60);
  Check(client.jobs->PlanJob(context.get(), request, &plan), client);
  if (app.output == "table") {
    PrintPlan(plan);
  } else {
    PrintMessage(plan, app.output);
  }
  return plan.admissible() ? kOk : kFailed;
}

void AddRunMethod(CLI::App* run, App& app, const std::string& method, const std::string& description) {
  auto flags = std::make_shared<RunFlags>();
  flags->method = method;
  CLI::App* command = run->add_subcommand(method, description);
  AddSpecFlags(command, flags.get());
  if (method == "sft") AddSftFlags(command, flags.get());
  if (method == "dpo") AddDpoFlags(command, &flags->preference);
  if (method == "kto") AddKtoFlags(command, &flags->preference);
  if (method == "grpo") AddGrpoFlags(command, &flags->grpo);
  command->get_option("--model")->required();
  command->get_option("--data")->required();
  command->add_flag("-d,--detach", flags->detach, "Do not watch");
  AddOutputOption(command, app);
  command->callback([&app, flags] { app.action = [&app, flags] { return Submit(app, *flags, !flags->detach); }; });
}

}  // namespace

void AddRunCommands(CLI::App& cli, App& app) {
  CLI::App* run = cli.add_subcommand("run", "Submit a job from flags and watch it");
  run->require_subcommand(1);
  AddRunMethod(run, app, "sft", "Supervised fine-tuning");
  AddRunMethod(run, app, "dpo", "Preference optimisation from chosen and rejected answers");
  AddRunMethod(run, app, "kto", "Preference optimisation from answers labelled good or bad");
  AddRunMethod(run, app, "grpo", "Group relative policy optimisation: learn from rewards");

  auto file = std::make_shared<RunFlags>();
  CLI::App* submit = cli.add_subcommand("submit", "Queue a job file (YAML or JSON)");
  submit->add_option("file", file->file, "Job file, or - for standard input")->required();
  auto watch = std::make_shared<bool>(false);
  AddSchedulingFlags(submit, &file->scheduling);
  submit->add_flag("-w,--watch", *watch, "Watch it until it ends");
  AddOutputOption(submit, app);
  submit->callback([&app, file, watch] {
    app.action = [&app, file, watch] { return Submit(app, *file, *watch); };
  });

  auto planned = std::make_shared<RunFlags>();
  CLI::App* plan = cli.add_subcommand("plan", "Memory, time and disk of a job, without running it");
  plan->add_option("file", planned->file, "Job file; or give flags");
  plan->add_option("--shape", planned->shape, "A well-known model without its file: llama-3.1-8b, qwen2.5-14b, ...");
  plan->add_option("--vram", planned->vram, "Memory to plan for: 24GB, 7.5GiB");
  AddSpecFlags(plan, planned.get());
  AddSftFlags(plan, planned.get());
  plan->add_option("--method", planned->method, "sft (default), dpo, kto or grpo")
      ->check(CLI::IsMember({"sft", "dpo", "kto", "grpo"}));
  plan->add_option("--group-size", planned->grpo.group_size, "grpo: completions per prompt (default 8)");
  plan->add_option("--max-completion-tokens", planned->grpo.max_completion_tokens,
                   "grpo: longest completion (default 512)");
  AddOutputOption(plan, app);
  plan->callback([&app, planned] { app.action = [&app, planned] { return Plan(app, *planned); }; });
}

}  // namespace finetuned::cli
