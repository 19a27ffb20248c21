#include "engine/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace finetuned::train {
namespace {

constexpr double kPi = 3.14159265358979323846;

// What a scheduler sees; counts are whole numbers of updates.
struct Point {
  const job::OptimizerOptions* options;
  double t, warmup, total;
  double cycles(double otherwise) const {
    return options->num_cycles > 0 ? options->num_cycles : otherwise;
  }
  // Share of the part after the warm-up.
  double progress() const { return (t - warmup) / std::max(1.0, total - warmup); }
};

// Factors of the learning rate after the warm-up; transformers/optimization.py.
double Constant(const Point&) { return 1; }
double Linear(const Point& p) {
  return std::max(0.0, (p.total - p.t) / std::max(1.0, p.total - p.warmup));
}
double CosineWave(const Point& p) {
  return 0.5 * (1 + std::cos(kPi * p.cycles(0.5) * 2 * p.progress()));
}
double Cosine(const Point& p) { return std::max(0.0, CosineWave(p)); }
double CosineWithMinLr(const Point& p) {
  const double floor = p.options->min_lr_ratio;
  return std::max(0.0, CosineWave(p) * (1 - floor) + floor);
}
double CosineWithRestarts(const Point& p) {
  if (p.progress() >= 1) return 0;
  return std::max(0.0, 0.5 * (1 + std::cos(kPi * std::fmod(p.cycles(1) * p.progress(), 1.0))));
}
double Polynomial(const Point& p) {  // power 1, down to 1e-7
  const double lr = p.options->learning_rate, end = 1e-7;
  if (lr == 0) return 0;
  if (p.t > p.total || p.total == p.warmup) return end / lr;
  return ((lr - end) * (1 - (p.t - p.warmup) / (p.total - p.warmup)) + end) / lr;
}
double InverseSqrt(const Point& p) {
  const double timescale = p.warmup > 0 ? p.warmup : 10000;
  return 1 / std::sqrt((p.t + timescale - p.warmup) / timescale);
}
double WarmupStableDecay(const Point& p) {
  const double decay = static_cast<double>(p.options->decay_steps), floor = p.options->min_lr_ratio;
  const double stable = p.total - p.warmup - decay;
  if (p.t < p.warmup + stable) return 1;
  if (p.t >= p.warmup + stable + decay) return floor;
  const double progress = (p.t - p.warmup - stable) / std::max(1.0, decay);
  const double wave = 0.5 * (1 + std::cos(kPi * p.cycles(0.5) * 2 * progress));
  return std::max(0.0, wave * (1 - floor) + floor);
}

const std::map<std::string, double (*)(const Point&)>& Table() {
  static const auto* table = new std::map<std::string, double (*)(const Point&)>{
      {"constant", Constant},
      {"constant_with_warmup", Constant},
      {"cosine", Cosine},
      {"cosine_with_min_lr", CosineWithMinLr},
      {"cosine_with_restarts", CosineWithRestarts},
      {"inverse_sqrt", InverseSqrt},
      {"linear", Linear},
      {"polynomial", Polynomial},
      {"warmup_stable_decay", WarmupStableDecay},
  };
  return *table;
}

double WarmupFactor(const Point& p) {
  const double share = p.t / std::max(1.0, p.warmup);
  if (p.options->scheduler != "warmup_stable_decay") return share;
  return share * (1 - p.options->min_lr_ratio) + p.options->min_lr_ratio;
}

}  // namespace

const std::vector<std::string>& SchedulerNames() {
  static const auto* names = [] {
    auto* all = new std::vector<std::string>;
    for (const auto& row : Table()) all->push_back(row.first);
    return all;
  }();
  return *names;
}

int64_t TotalSteps(const job::ScheduleOptions& schedule, int64_t micro_batches_per_epoch) {
  if (schedule.max_steps > 0) return schedule.max_steps;
  const int64_t accumulation = schedule.gradient_accumulation_steps;
  const int64_t per_epoch = (micro_batches_per_epoch + accumulation - 1) / accumulation;
  return static_cast<int64_t>(std::ceil(schedule.epochs * static_cast<double>(per_epoch)));
}

int64_t WarmupSteps(const job::OptimizerOptions& options, int64_t total_steps) {
  if (options.warmup_steps > 0) return options.warmup_steps;
  return static_cast<int64_t>(
      std::ceil(static_cast<double>(total_steps) * options.warmup_ratio));
}

double LearningRate(const job::OptimizerOptions& options, int64_t total_steps, int64_t done) {
  const bool warms_up = options.scheduler != "constant";
  const Point p{&options, static_cast<double>(done),
                warms_up ? static_cast<double>(WarmupSteps(options, total_steps)) : 0,
                static_cast<double>(total_steps)};
  const double factor = p.t < p.warmup ? WarmupFactor(p) : Table().at(options.scheduler)(p);
  return options.learning_rate * factor;
}

}  // namespace finetuned::train
