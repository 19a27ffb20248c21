#include "engine/grpo/loss.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

namespace finetuned::grpo {
namespace {

// sapo's and vespo's constants: TRL's defaults.
constexpr double kSapoPositive = 1.0, kSapoNegative = 1.05;
constexpr double kVespoPowerPositive = 2, kVespoRatePositive = 3, kVespoPowerNegative = 3,
                 kVespoRateNegative = 2;
const double kVespoLowest = std::log(1e-8);
constexpr double kVespoHighest = 20;

bool Clips(LossType type) {
  return type != LossType::kCispo && type != LossType::kSapo && type != LossType::kVespo;
}

// [M] to [B, L], 0 for padding.
at::Tensor Padded(const at::Tensor& x_M, const LossBatch& batch) {
  const at::Tensor with_zero = at::cat({x_M, at::zeros({1}, x_M.options())});
  return with_zero.index_select(0, batch.pad_M1).view({batch.completions, batch.longest});
}

// A term of the loss per token, and its derivatives: `direct` with respect to the log probability
// where it stands, `ratio` with respect to the log of the importance ratio. [B, L] or [B, 1].
struct Term {
  at::Tensor value, direct, ratio;
};

// -min(min(r, delta) A, clip(r) A). torch.min shares the gradient of equal arguments between both.
Term Clipped(const at::Tensor& r, const at::Tensor& a, const LossOptions& o) {
  const double low = 1 - o.clip_low, high = 1 + o.clip_high;
  const at::Tensor bounded = o.delta ? r.clamp_max(*o.delta) : r;
  const at::Tensor first = bounded * a, second = r.clamp(low, high) * a;
  const at::Tensor use_first =
      at::where(first == second, 0.5, (first < second).to(r.scalar_type()));
  const at::Tensor flows_first = o.delta ? (r <= *o.delta).to(r.scalar_type()) : at::ones_like(r);
  const at::Tensor flows_second = ((r >= low) & (r <= high)).to(r.scalar_type());
  const at::Tensor share = use_first * flows_first + (1 - use_first) * flows_second;
  return {-at::minimum(first, second), {}, -a * r * share};
}

Term Sapo(const at::Tensor& r, const at::Tensor& a) {
  const at::Tensor t = at::where(a > 0, kSapoPositive, kSapoNegative).to(r.scalar_type());
  const at::Tensor s = at::sigmoid(t * (r - 1));
  return {-s * 4 / t * a, {}, -4 * s * (1 - s) * a * r};
}

// A fixed weight times -A log p.
Term Weighted(const at::Tensor& weight, const at::Tensor& a, const at::Tensor& log_probs) {
  const at::Tensor direct = -weight * a;
  return {direct * log_probs, direct, {}};
}

// e^rate w^power e^(-rate w) of the completion's ratio w: 1 at 1.
at::Tensor VespoWeight(const at::Tensor& log_ratio_BL, const at::Tensor& mask_BL,
                       const at::Tensor& a_B1) {
  const at::Tensor log_w = (log_ratio_BL.clamp(-20, 20) * mask_BL)
                               .sum(-1, /*keepdim=*/true)
                               .clamp(kVespoLowest, kVespoHighest);
  const at::Tensor positive = a_B1 >= 0;
  const at::Tensor power =
      at::where(positive, kVespoPowerPositive, kVespoPowerNegative).to(log_w.scalar_type());
  const at::Tensor rate =
      at::where(positive, kVespoRatePositive, kVespoRateNegative).to(log_w.scalar_type());
  return at::nan_to_num(at::exp(rate + power * log_w - rate * log_w.exp()), 0, 0, 0);
}

// e^d - d - 1 with d = log reference - log policy, perhaps times the ratio.
Term Kl(const at::Tensor& reference, const at::Tensor& policy, const at::Tensor& r,
        bool corrected) {
  const at::Tensor d = reference - policy, e = d.exp();
  Term kl = {e - d - 1, 1 - e, {}};
  if (!corrected) return kl;
  return {kl.value * r, kl.direct * r, kl.value * r};
}

// 1 for the targets whose entropy reaches the quantile, as torch.quantile interpolates it.
at::Tensor HighEntropy(const at::Tensor& entropy_M, double share) {
  const int64_t n = entropy_M.size(0);
  const at::Tensor sorted = std::get<0>(entropy_M.sort());
  const double place = (1 - share) * static_cast<double>(n - 1);
  const int64_t below = static_cast<int64_t>(std::floor(place));
  const int64_t above = std::min(below + 1, n - 1);
  const at::Tensor threshold = at::lerp(sorted.narrow(0, below, 1), sorted.narrow(0, above, 1),
                                        place - static_cast<double>(below));
  return (entropy_M >= threshold).to(at::kFloat);
}

// What each completion's token losses are multiplied with in the sum, [B, 1].
at::Tensor SumWeights(const LossBatch& batch, const LossWindow& window, const LossOptions& o) {
  const double rows = static_cast<double>(batch.completions),
               targets = static_cast<double>(batch.targets);
  const double accumulation = static_cast<double>(window.accumulation);
  const auto all = [&](double divisor) { return at::full_like(batch.lengths_B1, 1 / divisor); };
  switch (o.type) {
    case LossType::kGrpo:
    case LossType::kSapo:
      return 1 / (batch.lengths_B1.clamp_min(1) * (rows * accumulation));
    case LossType::kBnpo:
      return all(targets * accumulation);
    case LossType::kDrGrpo:
      return all(rows * static_cast<double>(o.max_completion_tokens) * accumulation);
    case LossType::kLuspo:
      return all(rows * accumulation);
    default:
      return all(std::max(1.0, window.tokens));
  }
}

// Computes one micro-batch; members are [B, L] unless their name says otherwise.
class Computation {
 public:
  Computation(const LossBatch& batch, const PolicyLogProbs& log_probs, const LossOptions& options)
      : batch_(batch), o_(options), log_probs_(log_probs) {
    mask_ = Padded(at::ones_like(log_probs.policy_M), batch);
    policy_ = Padded(log_probs.policy_M, batch);
    log_ratio_ = log_probs.old_M.defined() ? policy_ - Padded(log_probs.old_M, batch)
                                           : at::zeros_like(policy_);
    const at::Tensor lengths = batch.lengths_B1.clamp_min(1);
    ratio_ = (o_.sequence_level ? (log_ratio_ * mask_).sum(-1, true) / lengths : log_ratio_).exp();
  }

  LossResult Run(const LossWindow& window) {
    Term term = Policy();
    at::Tensor keep_M;
    if (o_.top_entropy_quantile < 1) {
      keep_M = HighEntropy(log_probs_.entropy_M, o_.top_entropy_quantile);
      const at::Tensor keep = Padded(keep_M, batch_);
      for (at::Tensor* part : {&term.value, &term.direct, &term.ratio}) {
        if (part->defined()) *part = *part * keep;
      }
    }
    if (o_.beta != 0) {
      const Term kl =
          Kl(Padded(log_probs_.reference_M, batch_), policy_, ratio_, o_.bias_corrected_kl);
      kl_mean_ = MaskedMean(kl.value);
      term.value = term.value + o_.beta * kl.value;
      Add(o_.beta * kl.direct, &term.direct);
      if (kl.ratio.defined()) Add(o_.beta * kl.ratio, &term.ratio);
    }
    const at::Tensor weights = SumWeights(batch_, window, o_) * mask_;
    LossResult result;
    result.loss = (term.value * weights).sum().view({1});
    result.d_M = Gradient(term, weights).reshape({-1}).index_select(0, batch_.flat_M);
    if (o_.entropy_coef != 0) AddEntropyBonus(keep_M, window, &result);
    result.metrics = Metrics();
    return result;
  }

 private:
  static void Add(const at::Tensor& part, at::Tensor* sum) {
    *sum = sum->defined() ? *sum + part : part;
  }

  Term Policy() {
    const at::Tensor& a = batch_.advantages_B1;
    switch (o_.type) {
      case LossType::kCispo:
        return Weighted(ratio_.clamp_max(o_.clip_high), a, policy_);
      case LossType::kSapo:
        return Sapo(ratio_, a);
      case LossType::kVespo:
        vespo_weight_ = VespoWeight(log_ratio_, mask_, a);
        return Weighted(vespo_weight_, a, policy_);
      default:
        return Clipped(ratio_, a, o_);
    }
  }

  // The same whatever the loss type: a mean over the tokens of the micro-batch that train. keep_M undefined: all.
  void AddEntropyBonus(const at::Tensor& keep_M, const LossWindow& window, LossResult* result) {
    const double accumulation = static_cast<double>(window.accumulation);
    const bool by_window = o_.type == LossType::kDapo || o_.type == LossType::kCispo || o_.type == LossType::kVespo;
    policy_loss_ = result->loss[0] * (by_window ? 1.0 : accumulation);
    const at::Tensor keep = keep_M.defined() ? keep_M : at::ones_like(log_probs_.entropy_M);
    result->d_entropy_M = keep * (-o_.entropy_coef / accumulation) / keep.sum().clamp_min(1);
    result->loss = result->loss + (log_probs_.entropy_M * result->d_entropy_M).sum();
  }

  at::Tensor Gradient(const Term& term, const at::Tensor& weights) const {
    at::Tensor d = at::zeros_like(policy_);
    if (term.direct.defined()) d = d + term.direct * weights;
    if (term.ratio.defined()) {
      const at::Tensor by_ratio = term.ratio * weights;
      // One ratio per completion: the mean of its tokens' log ratios.
      d = d + (o_.sequence_level ? by_ratio.sum(-1, true) / batch_.lengths_B1.clamp_min(1) * mask_
                                 : by_ratio);
    }
    return d;
  }

  // Of values per token over the targets, of values per completion over the completions.
  at::Tensor MaskedMean(const at::Tensor& x) const {
    if (x.size(1) == 1) return x.mean();
    return (x * mask_).sum() / static_cast<double>(batch_.targets);
  }

  // Share of each completion's tokens, [B]; `empty` where it has none.
  at::Tensor Shares(const at::Tensor& x, double empty) const {
    if (x.size(1) == 1) return x.view({-1});
    const at::Tensor shares = ((x * mask_).sum(-1, true) / batch_.lengths_B1.clamp_min(1));
    return at::where(batch_.lengths_B1 > 0, shares, empty).view({-1});
  }

  at::Tensor Metrics() const {
    const at::Tensor& a = batch_.advantages_B1;
    const at::Tensor zero = at::zeros({}, policy_.options());
    std::vector<at::Tensor> m(kMetrics, zero);
    m[0] = log_probs_.entropy_M.mean();
    if (kl_mean_.defined()) m[1] = kl_mean_;
    if (Clips(o_.type)) {
      const at::Tensor r = o_.delta ? ratio_.clamp_max(*o_.delta) : ratio_;
      const at::Tensor low = (r < 1 - o_.clip_low) & (a < 0),
                       high = (r > 1 + o_.clip_high) & (a > 0);
      const at::Tensor low_share = low.to(at::kFloat), high_share = high.to(at::kFloat);
      m[2] = MaskedMean(low_share);
      m[3] = Shares(low_share, 1).min();
      m[4] = MaskedMean(high_share);
      m[5] = Shares(high_share, 0).max();
      m[6] = MaskedMean((low | high).to(at::kFloat));
    } else if (o_.type == LossType::kCispo) {
      m[7] = MaskedMean(((ratio_ > o_.clip_high) & (a > 0)).to(at::kFloat));
    } else if (o_.type == LossType::kVespo) {
      m[8] = vespo_weight_.mean();
    }
    if (policy_loss_.defined()) m[9] = policy_loss_;
    return at::stack(m);
  }

  const LossBatch& batch_;
  const LossOptions& o_;
  const PolicyLogProbs& log_probs_;
  at::Tensor mask_, policy_, log_ratio_;
  at::Tensor ratio_;         // [B, L], or [B, 1] with sequence_level
  at::Tensor vespo_weight_;  // [B, 1]
  at::Tensor kl_mean_;       // []
  at::Tensor policy_loss_;   // [], with an entropy bonus
};

at::Tensor ToDevice(const at::Tensor& host, at::Device device) {
  return (device.is_cuda() ? host.pin_memory() : host).to(device, /*non_blocking=*/true);
}

}  // namespace

LossBatch MakeLossBatch(std::span<const int64_t> lengths, std::span<const double> advantages,
                        at::Device device) {
  LossBatch batch;
  batch.completions = static_cast<int64_t>(lengths.size());
  for (const int64_t length : lengths) {
    batch.targets += length;
    batch.longest = std::max(batch.longest, length);
  }
  at::Tensor index =
      at::full({batch.completions * batch.longest + batch.targets}, batch.targets, at::kLong);
  at::Tensor numbers = at::empty({2, batch.completions, 1}, at::kFloat);
  int64_t* pad = index.data_ptr<int64_t>();
  int64_t* flat = pad + batch.completions * batch.longest;
  float* values = numbers.data_ptr<float>();
  int64_t target = 0;
  for (int64_t b = 0; b < batch.completions; ++b) {
    for (int64_t t = 0; t < lengths[b]; ++t, ++target) {
      pad[b * batch.longest + t] = target;
      flat[target] = b * batch.longest + t;
    }
    values[b] = static_cast<float>(lengths[b]);
    values[batch.completions + b] = static_cast<float>(advantages[b]);
  }
  const at::Tensor index_there = ToDevice(index, device), numbers_there = ToDevice(numbers, device);
  batch.pad_M1 = index_there.narrow(0, 0, batch.completions * batch.longest);
  batch.flat_M = index_there.narrow(0, batch.completions * batch.longest, batch.targets);
  batch.lengths_B1 = numbers_there[0];
  batch.advantages_B1 = numbers_there[1];
  return batch;
}

std::vector<bool> MetricsOf(const LossOptions& options) {
  const bool clips = Clips(options.type);
  return {true,
          options.beta != 0,
          clips,
          clips,
          clips,
          clips,
          clips,
          options.type == LossType::kCispo,
          options.type == LossType::kVespo,
          options.entropy_coef != 0};
}

LossResult PolicyLoss(const LossBatch& batch, const PolicyLogProbs& log_probs,
                      const LossWindow& window, const LossOptions& options) {
  return Computation(batch, log_probs, options).Run(window);
}

}  // namespace finetuned::grpo
