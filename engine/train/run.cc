#include "engine/train/run.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <cerrno>
#include <cstring>
#include <new>
#include <optional>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/data/dataset.h"
#include "engine/data/prompts.h"
#include "engine/format/extended_model.h"
#include "engine/format/model_source.h"
#include "engine/format/sha256.h"
#include "engine/job/failpoint.h"
#include "engine/lora/peft_files.h"
#include "engine/plan/head.h"
#include "engine/reward/reward_set.h"
#include "engine/train/base_model_cache.h"
#include "engine/train/device.h"
#include "engine/train/files.h"
#include "engine/train/grpo_method.h"
#include "engine/train/spec_check.h"
#include "engine/train/trainer.h"
#include "engine/train/world.h"

namespace finetuned::train {
namespace {

using job::Outcome;

job::RunResult Failed(Outcome outcome, std::string reason, absl::string_view message) {
  job::RunResult result;
  result.outcome = outcome;
  result.reason = std::move(reason);
  result.message = std::string(message);
  return result;
}

// The disk takes nothing more: whoever writes names the error of the system.
bool DiskRefuses(const absl::Status& s) {
  for (const int error : {ENOSPC, EDQUOT, EROFS}) {
    if (absl::StrContains(s.message(), std::strerror(error))) return true;
  }
  return false;
}

// Files that cannot be read or written, whatever they are.
bool IsIo(const absl::Status& s) { return absl::IsUnavailable(s) || absl::IsDataLoss(s) || DiskRefuses(s); }

job::RunResult IoFailure(const absl::Status& s) {
  return Failed(Outcome::kInternal, DiskRefuses(s) ? "DISK_FULL" : "IO_ERROR", s.message());
}

job::RunResult ConfigOrIo(const absl::Status& s, const char* reason) {
  if (IsIo(s)) return IoFailure(s);
  return Failed(Outcome::kBadConfig, reason, s.message());
}

job::RunResult TrainerFailure(const absl::Status& s) {
  if (absl::IsAborted(s)) return Failed(Outcome::kInternal, "NON_FINITE_LOSS", s.message());
  if (absl::IsFailedPrecondition(s)) return Failed(Outcome::kBadConfig, "REWARDS_FAILED", s.message());
  if (IsIo(s)) return IoFailure(s);
  return Failed(Outcome::kInternal, "INTERNAL", s.message());
}

data::TokenizeOptions TokenizeOptionsOf(const job::TrainSpec& spec) {
  data::TokenizeOptions o;
  o.max_seq_length = spec.schedule.max_seq_length;
  if (spec.method == "dpo" || spec.method == "kto") {
    const bool dpo = spec.method == "dpo";
    o.method = dpo ? data::Method::kDpo : data::Method::kKto;
    o.chat_template = dpo ? spec.dpo.chat_template : spec.kto.chat_template;
    return o;
  }
  if (spec.sft.truncation == "keep_end") o.truncation = data::Truncation::kKeepEnd;
  using Loss = data::TokenizeOptions::Loss;
  if (spec.sft.loss_on == "all") o.loss = Loss::kAllTokens;
  if (spec.sft.loss_on == "completion") o.loss = Loss::kCompletionOnly;
  if (spec.sft.loss_on == "assistant") o.loss = Loss::kAssistantOnly;
  o.chat_template = spec.sft.chat_template;
  return o;
}

// One call of RunTraining: each step stores what the next needs, or returns the failure.
class Run {
 public:
  Run(const job::TrainSpec& spec, job::RunObserver& observer, job::RunControl& control,
      BaseModelCache* cache, DeviceMemory* memory, job::RemoteScorer* scorer, const job::WorldOptions& world)
      : spec_(spec), observer_(observer), control_(control), cache_(cache), memory_(memory), scorer_(scorer),
        world_options_(world) {}

  job::RunResult Execute() {
    std::optional<job::RunResult> failed = Prepare();
    if (!failed) failed = MeetOthers();
    if (!failed) failed = OpenSource();
    if (!failed) failed = CheckStartAdapter();
    if (!failed) failed = Tokenize();
    if (!failed) failed = FindResumePoint();
    if (!failed) failed = LoadBase();
    if (!failed) failed = LoadReference();
    if (failed) return *std::move(failed);
    TrainerInputs in;
    in.spec = &spec_;
    in.base = base_.get();
    in.train = &train_;
    in.eval = spec_.eval_dataset_path.empty() || eval_prompts_ ? nullptr : &eval_;
    if (prompts_) in.rollouts.train = &*prompts_;
    if (eval_prompts_) in.rollouts.eval = &*eval_prompts_;
    in.rollouts.tokenizer = tokenizer_.get();
    in.extended_tokenizer = source_->extended_tokenizer();
    in.rollouts.scorer = scorer_;
    in.identity = identity_;
    in.observer = &observer_;
    in.control = &control_;
    in.doing = &doing_;
    in.memory = memory_;
    in.world = world_.get();
    in.reference = reference_.get();
    Trainer trainer(std::move(in));
    if (!spec_.init_adapter_path.empty()) {
      absl::Status s = lora::LoadPeftWeights(spec_.init_adapter_path, &trainer.adapter());
      if (!s.ok()) return ConfigOrIo(s, "INVALID_ADAPTER");
    }
    absl::StatusOr<job::RunResult> result = trainer.Run(checkpoint_);
    return result.ok() ? *std::move(result) : TrainerFailure(result.status());
  }

  const std::string& doing() const { return doing_; }
  at::Device device() const { return target_.device; }

  // Whether the device could hold the job if nobody else used it.
  bool FitsEmptyDevice() const {
    if (source_ == nullptr || !target_.device.is_cuda()) return false;
    model::BaseModel shape;
    shape.config = source_->config();
    shape.options = Wanted();
    return plan::PlanMemory(PlanInputOf(spec_, shape)).total() <= TotalMemory(target_.device);
  }

 private:
  using Failure = std::optional<job::RunResult>;

  Failure Prepare() {
    doing_ = "checking the job";
    if (absl::Status s = ValidateSpec(spec_); !s.ok()) {
      return Failed(Outcome::kBadConfig, "INVALID_SPEC", s.message());
    }
    ConfigureLibrary(spec_);
    absl::StatusOr<ComputeTarget> target = ChooseTarget(spec_);
    if (!target.ok()) {
      const bool absent = absl::IsUnavailable(target.status());
      return Failed(Outcome::kBadConfig, absent ? "DEVICE_UNAVAILABLE" : "INVALID_SPEC",
                    target.status().message());
    }
    target_ = *target;
    if (absl::Status s = CheckPrecision(spec_, target_); !s.ok()) {
      return Failed(Outcome::kBadConfig, "INVALID_SPEC", s.message());
    }
    if (world_options_.rank > 0) return std::nullopt;
    auto lock = DirectoryLock::Take(spec_.state_dir);
    if (!lock.ok()) return ConfigOrIo(lock.status(), "STATE_DIR_BUSY");
    lock_ = *std::move(lock);
    FT_FAILPOINT("run.locked");
    return std::nullopt;
  }

  Failure MeetOthers() {
    const int size = world_options_.size;
    if (size == 1) return std::nullopt;
    if (spec_.method == "grpo") {
      return Failed(Outcome::kBadConfig, "INVALID_SPEC",
                    "method: grpo runs in one process; several share sft, dpo and kto");
    }
    const job::ScheduleOptions& s = spec_.schedule;
    if (s.gradient_accumulation_steps < size) {
      return Failed(Outcome::kBadConfig, "INVALID_SPEC",
                    absl::StrCat("schedule.gradient_accumulation_steps: is ", s.gradient_accumulation_steps, ", which ", size,
                                 " processes cannot share; set it to ", size, " or more, with micro_batch_size ",
                                 std::max<int64_t>(1, s.micro_batch_size * s.gradient_accumulation_steps / size),
                                 " for about as many rows a step"));
    }
    doing_ = absl::StrCat("waiting for ", size, " processes at ", world_options_.master_address, ":",
                          world_options_.master_port);
    world_ = JoinWorld(world_options_, target_.device);
    // Templates that print the date give all the same tokens.
    const at::Tensor created = at::full({1}, world_->rank() == 0 ? created_unix_seconds_ : 0, at::kDouble).to(target_.device);
    world_->Sum(created);
    world_->AwaitSums();
    created_unix_seconds_ = static_cast<int64_t>(created.to(at::kCPU).item<double>());
    return std::nullopt;
  }

  // All go on from the same step: a folder that is not shared shows here.
  Failure CompareResumePoints() {
    if (world_ == nullptr) return std::nullopt;
    const double here = checkpoint_.has_value() ? static_cast<double>(checkpoint_->state.step) : 0;
    at::Tensor steps = at::zeros({world_->size()}, at::kDouble);
    steps[world_->rank()] = here;
    steps = steps.to(target_.device);
    world_->Sum(steps);
    world_->AwaitSums();
    const at::Tensor all = steps.to(at::kCPU);
    for (int i = 0; i < world_->size(); ++i) {
      const double there = all.const_data_ptr<double>()[i];
      if (there == here) continue;
      return Failed(Outcome::kBadConfig, "CHECKPOINT_MISMATCH",
                    absl::StrCat("process ", world_->rank(), " finds the checkpoint of step ", here, ", process ", i,
                                 " that of step ", there, "; the state directory must be one that all of them see"));
    }
    return std::nullopt;
  }

  Failure OpenSource() {
    observer_.OnPhase("loading");
    doing_ = absl::StrCat("opening ", spec_.base_model_path);
    auto source = format::OpenModelFor(spec_.base_model_path, spec_.init_adapter_path);
    if (!source.ok()) return ConfigOrIo(source.status(), "INVALID_MODEL");
    source_ = *source;
    if (!spec_.lora.new_tokens.empty()) {
      source = format::WithNewTokens(source_, spec_.base_model_path, spec_.lora.new_tokens);
      if (!source.ok()) return ConfigOrIo(source.status(), "INVALID_SPEC");
      source_ = *source;
    }
    if (!source_->config().text_prefix.empty()) {
      observer_.OnWarning("IMAGES_LEFT_OUT", "the base takes images; its text part alone is loaded and trained");
    }
    const absl::Status linears = format::CheckLinearNames(spec_.lora.target_modules, source_->config());
    if (!linears.ok()) {
      return Failed(Outcome::kBadConfig, "INVALID_SPEC", absl::StrCat("lora.target_modules: ", linears.message()));
    }
    const int64_t limit = source_->config().max_position_embeddings;
    if (limit > 0 && spec_.schedule.max_seq_length > limit) {
      return Failed(Outcome::kBadConfig, "INVALID_SPEC",
                    absl::StrCat("schedule.max_seq_length: is ", spec_.schedule.max_seq_length,
                                 ", the model's limit is ", limit));
    }
    for (const int64_t layer : spec_.lora.layers_to_transform) {
      if (layer < source_->config().num_hidden_layers) continue;
      return Failed(Outcome::kBadConfig, "INVALID_SPEC",
                    absl::StrCat("lora.layers_to_transform: names layer ", layer, ", the model has layers 0 to ",
                                 source_->config().num_hidden_layers - 1));
    }
    const absl::Status head = plan::CheckHeadStorage(source_->config(), spec_.lm_head_quantization, spec_.embed_tokens);
    if (!head.ok()) return ConfigOrIo(head, "INVALID_SPEC");
    return std::nullopt;
  }

  std::vector<lora::Target> OfModel(const std::vector<lora::Target>& targets) const {
    return lora::TargetsOfModel(targets, source_->config());
  }

  // Rank and targets are the start adapter's; whoever made the spec took them from it.
  Failure CheckStartAdapter() {
    const std::string& path = spec_.init_adapter_path;
    if (path.empty()) return std::nullopt;
    doing_ = absl::StrCat("reading the adapter ", path);
    const auto has = lora::ReadPeftConfig(path);
    if (!has.ok()) return ConfigOrIo(has.status(), "INVALID_ADAPTER");
    const lora::Options wants = LoraOptionsOf(spec_);
    const char* different = has->rank != wants.rank               ? "lora.rank"
                            : has->alpha != wants.alpha           ? "lora.alpha"
                            : has->use_rslora != wants.use_rslora ? "lora.use_rslora"
                            : has->use_dora != wants.use_dora     ? "lora.use_dora"
                            : OfModel(has->targets) != OfModel(wants.targets) ? "lora.target_modules"
                            : has->rank_pattern != wants.rank_pattern   ? "lora.rank_pattern"
                            : has->alpha_pattern != wants.alpha_pattern ? "lora.alpha_pattern"
                            : has->layers != wants.layers               ? "lora.layers_to_transform"
                            : has->biases != wants.biases               ? "lora.bias"
                            : has->modules_to_save != wants.modules_to_save ? "lora.modules_to_save"
                                                                        : nullptr;
    if (different != nullptr) {
      return Failed(Outcome::kBadConfig, "INVALID_SPEC",
                    absl::StrCat(different, ": is not that of the adapter to start from, ", path, "; leave it out"));
    }
    auto hash = format::Sha256File(path + "/adapter_model.safetensors");
    if (!hash.ok()) return Failed(Outcome::kBadConfig, "INVALID_ADAPTER", hash.status().message());
    init_adapter_sha256_ = *hash;
    return std::nullopt;
  }

  Failure Tokenize() {
    observer_.OnPhase("tokenizing");
    auto tokenizer = source_->LoadTokenizer();
    if (!tokenizer.ok()) return ConfigOrIo(tokenizer.status(), "INVALID_MODEL");
    tokenizer_ = *tokenizer;
    if (spec_.method == "grpo") return ReadPrompts();
    if (Failure f = TokenizeOne(spec_.dataset_path, **tokenizer, &train_)) return f;
    if (spec_.eval_dataset_path.empty()) return std::nullopt;
    return TokenizeOne(spec_.eval_dataset_path, **tokenizer, &eval_);
  }

  // The prompts stand in for the rows: their statistics are what the run reports of its data.
  Failure ReadPrompts() {
    if (!spec_.grpo.remote_rewards.empty() && scorer_ == nullptr) {
      return Failed(Outcome::kBadConfig, "INVALID_SPEC",
                    "grpo.remote_reward: rewards computed outside need the daemon; run the job there, or use "
                    "grpo.builtin_rewards");
    }
    if (Failure f = ReadPromptFile(spec_.dataset_path, &prompts_)) return f;
    if (!spec_.eval_dataset_path.empty()) {
      if (Failure f = ReadPromptFile(spec_.eval_dataset_path, &eval_prompts_)) return f;
    }
    train_.stats = prompts_->stats;
    for (const data::Prompt& prompt : prompts_->prompts) {
      train_.rows.push_back({prompt.ids, std::vector<uint8_t>(prompt.ids.size(), 0), prompt.line});
    }
    if (absl::Status s = GrpoMethod::Check(spec_, prompts_->prompts.size()); !s.ok()) {
      return Failed(Outcome::kBadConfig, "INVALID_SPEC", s.message());
    }
    return std::nullopt;
  }

  Failure ReadPromptFile(const std::string& path, std::optional<data::PromptSet>* out) {
    doing_ = absl::StrCat("reading ", path);
    data::PromptOptions options;
    options.max_tokens = spec_.schedule.max_seq_length - spec_.grpo.max_completion_tokens;
    options.chat_template = spec_.grpo.chat_template;
    options.system_prompt = spec_.grpo.system_prompt;
    options.now_unix_seconds = created_unix_seconds_;
    const auto rewards = reward::RewardSet::Make(spec_.grpo.builtin_rewards);
    if (rewards.ok()) options.required_columns = rewards->columns();  // else Check says what is wrong
    auto prompts = data::LoadPrompts(path, *tokenizer_, source_->chat_template(), options);
    if (!prompts.ok()) return DatasetFailure(prompts.status());
    WarnAbout(prompts->warnings);
    *out = *std::move(prompts);
    return std::nullopt;
  }

  Failure TokenizeOne(const std::string& path, const text::Tokenizer& tokenizer,
                      data::TokenizedDataset* out) {
    doing_ = absl::StrCat("tokenizing ", path);
    data::TokenizeOptions options = TokenizeOptionsOf(spec_);
    options.now_unix_seconds = created_unix_seconds_;
    auto dataset = data::TokenizeFile(path, tokenizer, source_->chat_template(), options, at::get_num_threads());
    if (!dataset.ok()) return DatasetFailure(dataset.status());
    WarnAbout(dataset->warnings);
    *out = *std::move(dataset);
    return std::nullopt;
  }

  static job::RunResult DatasetFailure(const absl::Status& s) {
    if (absl::IsUnavailable(s)) return Failed(Outcome::kInternal, "IO_ERROR", s.message());
    return Failed(Outcome::kBadData, "INVALID_DATASET", s.message());
  }

  void WarnAbout(const std::vector<data::RowError>& warnings) {
    for (const data::RowError& w : warnings) {
      observer_.OnWarning(w.reason, absl::StrCat("line ", w.line, ": ", w.message));
    }
  }

  Failure FindResumePoint() {
    doing_ = "looking for a checkpoint";
    auto hash = format::Sha256File(spec_.dataset_path);
    if (!hash.ok()) return Failed(Outcome::kInternal, "IO_ERROR", hash.status().message());
    identity_ = {SpecIdentity(spec_), source_->fingerprint(), *hash, init_adapter_sha256_};
    auto found = FindCheckpoint(spec_.state_dir, identity_, [&](const std::string& text) {
      observer_.OnWarning("CHECKPOINT_DAMAGED", text);
    });
    if (!found.ok()) return ConfigOrIo(found.status(), "CHECKPOINT_MISMATCH");
    checkpoint_ = *found;
    FT_FAILPOINT("run.checkpoint_found");
    return CompareResumePoints();
  }

  model::LoadOptions Wanted() const { return LoadOptionsOf(spec_, target_); }

  Failure LoadBase() {
    doing_ = absl::StrCat("loading ", spec_.base_model_path);
    bool warm = false;
    auto loaded = LoadThroughCache(cache_, *source_, spec_.base_model_path, Wanted(), &warm);
    if (!loaded.ok()) return ConfigOrIo(loaded.status(), "INVALID_MODEL");
    base_ = *loaded;
    FT_FAILPOINT("run.base_loaded");
    if (warm) {
      observer_.OnLog("the base model is already loaded");
      return std::nullopt;
    }
    ReleaseCachedMemory(target_.device);  // of quantizing: the plan knows nothing of it
    observer_.OnLog(absl::StrCat("base model loaded: ", base_->bytes() >> 20, " MiB"));
    return std::nullopt;
  }

  // The start adapter again, frozen, where the method compares with it.
  Failure LoadReference() {
    if (!HasFrozenAdapter(spec_)) return std::nullopt;
    doing_ = absl::StrCat("loading the adapter ", spec_.init_adapter_path);
    reference_ = std::make_unique<lora::Adapter>(base_->config, LoraOptionsOf(spec_), target_.device, target_.dtype,
                                                 /*trainable=*/false);
    absl::Status s = lora::LoadPeftWeights(spec_.init_adapter_path, reference_.get());
    if (!s.ok()) return ConfigOrIo(s, "INVALID_ADAPTER");
    return std::nullopt;
  }

  const job::TrainSpec& spec_;
  job::RunObserver& observer_;
  job::RunControl& control_;
  BaseModelCache* const cache_;
  DeviceMemory* const memory_;
  job::RemoteScorer* const scorer_;
  const job::WorldOptions world_options_;
  int64_t created_unix_seconds_ = spec_.created_unix_seconds;
  std::string doing_;
  ComputeTarget target_;
  std::unique_ptr<World> world_;
  std::unique_ptr<DirectoryLock> lock_;
  std::shared_ptr<const format::ModelSource> source_;
  std::shared_ptr<const text::Tokenizer> tokenizer_;
  data::TokenizedDataset train_, eval_;
  std::optional<data::PromptSet> prompts_, eval_prompts_;  // GRPO
  std::string init_adapter_sha256_;
  RunIdentity identity_;
  std::optional<FoundCheckpoint> checkpoint_;
  std::shared_ptr<model::BaseModel> base_;
  std::unique_ptr<lora::Adapter> reference_;
};

// The first line of a c10 message; the rest is a stack trace.
std::string FirstLine(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

job::RunResult DeviceFailure(const Run& run, const std::string& what, bool out_of_memory) {
  const std::string line = FirstLine(what);
  if (out_of_memory && run.FitsEmptyDevice()) {
    return Failed(Outcome::kCheckpointed, "OUT_OF_DEVICE_MEMORY",
                  absl::StrCat("not enough memory is left of the device while ", run.doing(), " (", line,
                               "): another process holds it; resume the job when that has ended"));
  }
  if (out_of_memory || absl::StrContains(line, "can't allocate memory")) {
    return Failed(Outcome::kInternal, "OUT_OF_DEVICE_MEMORY",
                  absl::StrCat("not enough memory while ", run.doing(), " (", line,
                               "). Lower schedule.micro_batch_size or schedule.max_seq_length, "
                               "or set compute.activation_checkpointing on"));
  }
  const std::string message = absl::StrCat("while ", run.doing(), ": ", line);
  // An error of the driver or the hardware; the process that met it is of no use any more.
  if (absl::StrContains(line, "CUDA error")) return Failed(Outcome::kInternal, "GPU_XID_ERROR", message);
  return Failed(Outcome::kInternal, "INTERNAL", message);
}

}  // namespace

job::RunResult RunTraining(const job::TrainSpec& spec, job::RunObserver& observer,
                           job::RunControl& control, BaseModelCache* cache, DeviceMemory* memory,
                           job::RemoteScorer* scorer, const job::WorldOptions& world) {
  job::RunResult result;
  at::Device device = at::kCPU;
  {
    Run run(spec, observer, control, cache, memory, scorer, world);
    try {
      c10::InferenceMode no_autograd;
      result = run.Execute();
    } catch (const PeerLost& e) {
      result = Failed(Outcome::kCheckpointed, "PEER_LOST",
                      absl::StrCat("while ", run.doing(), ": ", e.what(), "; start all processes again"));
    } catch (const std::bad_alloc&) {
      result = DeviceFailure(run, "out of host memory", true);
    } catch (const c10::Error& e) {
      result = DeviceFailure(run, e.what_without_backtrace(), IsOutOfMemory(e));
    } catch (const std::exception& e) {
      result = DeviceFailure(run, e.what(), false);
    }
    device = run.device();
  }
  ReleaseCachedMemory(device);
  return result;
}

}  // namespace finetuned::train
