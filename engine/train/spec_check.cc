#include "engine/train/spec_check.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/lora/adapter.h"
#include "engine/train/schedule.h"

namespace finetuned::train {
namespace {

// Keeps the first problem.
class Checker {
 public:
  void Require(bool ok, const std::string& field, const std::string& problem) {
    if (!ok && status_.ok()) {
      status_ = absl::InvalidArgumentError(absl::StrCat(field, ": ", problem));
    }
  }
  void AtLeast(double value, double low, const std::string& field) {
    Require(std::isfinite(value) && value >= low, field,
            absl::StrCat("is ", value, ", must be at least ", low));
  }
  void Share(double value, const std::string& field) {  // [0, 1)
    Require(value >= 0 && value < 1, field, absl::StrCat("is ", value, ", must be in [0, 1)"));
  }
  void OneOf(const std::string& value, const std::vector<std::string>& allowed,
             const std::string& field) {
    Require(std::count(allowed.begin(), allowed.end(), value) > 0, field,
            absl::StrCat("is \"", value, "\", must be one of ", absl::StrJoin(allowed, ", ")));
  }
  const absl::Status& status() const { return status_; }

 private:
  absl::Status status_;
};

void CheckOptimizer(const job::OptimizerOptions& o, Checker* c) {
  c->OneOf(o.kind, {"adamw", "adamw_8bit"}, "optimizer.kind");
  c->AtLeast(o.learning_rate, 0, "optimizer.learning_rate");
  c->Share(o.beta1, "optimizer.beta1");
  c->Share(o.beta2, "optimizer.beta2");
  c->Require(std::isfinite(o.epsilon) && o.epsilon > 0, "optimizer.epsilon", "must be above 0");
  c->AtLeast(o.weight_decay, 0, "optimizer.weight_decay");
  c->AtLeast(o.max_grad_norm, 0, "optimizer.max_grad_norm");
  c->OneOf(o.scheduler, SchedulerNames(), "optimizer.scheduler");
  c->AtLeast(static_cast<double>(o.warmup_steps), 0, "optimizer.warmup_steps");
  c->Require(o.warmup_ratio >= 0 && o.warmup_ratio <= 1, "optimizer.warmup_ratio",
             "must be in [0, 1]");
  c->Require(o.min_lr_ratio >= 0 && o.min_lr_ratio <= 1, "optimizer.min_lr_ratio",
             "must be in [0, 1]");
  c->AtLeast(o.num_cycles, 0, "optimizer.num_cycles");
  c->AtLeast(static_cast<double>(o.decay_steps), 0, "optimizer.decay_steps");
  c->Require(o.scheduler != "warmup_stable_decay" || o.decay_steps > 0, "optimizer.decay_steps",
             "is required by the scheduler warmup_stable_decay");
}

void CheckSchedule(const job::ScheduleOptions& s, Checker* c) {
  c->AtLeast(static_cast<double>(s.max_steps), 0, "schedule.max_steps");
  c->Require(s.max_steps > 0 || (std::isfinite(s.epochs) && s.epochs > 0), "schedule.epochs",
             absl::StrCat("is ", s.epochs, ", must be above 0 when max_steps is not set"));
  c->AtLeast(static_cast<double>(s.micro_batch_size), 1, "schedule.micro_batch_size");
  c->AtLeast(static_cast<double>(s.gradient_accumulation_steps), 1,
             "schedule.gradient_accumulation_steps");
  c->AtLeast(static_cast<double>(s.max_seq_length), 2, "schedule.max_seq_length");
}

}  // namespace

absl::Status ValidateSpec(const job::TrainSpec& spec) {
  Checker c;
  c.Require(spec.method == "sft", "method",
            absl::StrCat("is \"", spec.method, "\"; this version trains \"sft\""));
  c.Require(!spec.base_model_path.empty(), "base_model", "is required");
  c.Require(!spec.dataset_path.empty(), "dataset", "is required");
  c.Require(!spec.state_dir.empty(), "state_dir", "is required");
  c.AtLeast(static_cast<double>(spec.lora.rank), 1, "lora.rank");
  c.Require(spec.lora.rank <= 1024, "lora.rank", "must be at most 1024");
  c.AtLeast(spec.lora.alpha, 0, "lora.alpha");
  c.Share(spec.lora.dropout, "lora.dropout");
  if (auto targets = lora::ParseTargets(spec.lora.target_modules); !targets.ok()) {
    c.Require(false, "lora.target_modules", std::string(targets.status().message()));
  }
  CheckOptimizer(spec.optimizer, &c);
  CheckSchedule(spec.schedule, &c);
  c.OneOf(spec.sft.loss_on, {"auto", "all", "completion", "assistant"}, "sft.loss_on");
  c.OneOf(spec.sft.truncation, {"keep_start", "keep_end"}, "sft.truncation");
  c.Share(spec.sft.label_smoothing, "sft.label_smoothing");
  c.AtLeast(static_cast<double>(spec.checkpoints.every_steps), 0, "checkpoints.every_steps");
  c.AtLeast(static_cast<double>(spec.checkpoints.keep_last), 1, "checkpoints.keep_last");
  c.AtLeast(static_cast<double>(spec.evaluation.every_steps), 0, "evaluation.every_steps");
  c.OneOf(spec.base_quantization, {"nf4", "none"}, "quantization.base");
  c.OneOf(spec.compute_dtype, {"auto", "bf16", "f32"}, "compute.dtype");
  c.OneOf(spec.device, {"auto", "cpu", "cuda"}, "compute.device");
  return c.status();
}

nlohmann::json SpecIdentity(const job::TrainSpec& s) {
  const job::OptimizerOptions& o = s.optimizer;
  return {{"method", s.method},
          {"lora.rank", s.lora.rank},
          {"lora.alpha", s.lora.alpha},
          {"lora.dropout", s.lora.dropout},
          {"lora.use_rslora", s.lora.use_rslora},
          {"lora.target_modules", s.lora.target_modules},
          {"optimizer.kind", o.kind},
          {"optimizer.learning_rate", o.learning_rate},
          {"optimizer.beta1", o.beta1},
          {"optimizer.beta2", o.beta2},
          {"optimizer.epsilon", o.epsilon},
          {"optimizer.weight_decay", o.weight_decay},
          {"optimizer.max_grad_norm", o.max_grad_norm},
          {"optimizer.scheduler", o.scheduler},
          {"optimizer.warmup_steps", o.warmup_steps},
          {"optimizer.warmup_ratio", o.warmup_ratio},
          {"optimizer.min_lr_ratio", o.min_lr_ratio},
          {"optimizer.num_cycles", o.num_cycles},
          {"optimizer.decay_steps", o.decay_steps},
          {"schedule.epochs", s.schedule.epochs},
          {"schedule.max_steps", s.schedule.max_steps},
          {"schedule.micro_batch_size", s.schedule.micro_batch_size},
          {"schedule.gradient_accumulation_steps", s.schedule.gradient_accumulation_steps},
          {"schedule.max_seq_length", s.schedule.max_seq_length},
          {"schedule.packing", s.schedule.packing},
          {"schedule.shuffle", s.schedule.shuffle},
          {"sft.loss_on", s.sft.loss_on},
          {"sft.truncation", s.sft.truncation},
          {"sft.label_smoothing", s.sft.label_smoothing},
          {"sft.chat_template", s.sft.chat_template},
          {"quantization.base", s.base_quantization},
          {"compute.dtype", s.compute_dtype},
          {"seed", s.seed}};
}

}  // namespace finetuned::train
