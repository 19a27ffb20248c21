#include "engine/preference/pair_loss.h"

#include <ATen/ATen.h>

#include <cmath>

namespace finetuned::preference {
namespace {

using at::Tensor;

Tensor Sigmoid(const Tensor& x) { return at::sigmoid(x); }
Tensor LogSigmoid(const Tensor& x) { return at::log_sigmoid(x); }
// Derivative of the sigmoid.
Tensor Slope(const Tensor& x) { return at::sigmoid(x) * at::sigmoid(-x); }

// A log ratio as the loss sees it, with its derivative.
struct Score {
  Tensor value, slope;
};

Score FDivergence(const Tensor& log_ratio, const PairLossOptions& o) {
  if (o.f_divergence == "forward_kl") {
    const Tensor inverse = at::exp(-log_ratio);
    return {1 - inverse, inverse};
  }
  if (o.f_divergence == "js_divergence") {
    return {LogSigmoid(log_ratio) + std::log(2.0), Sigmoid(-log_ratio)};
  }
  const double a = o.f_alpha_divergence_coef - 1;
  if (o.f_divergence == "alpha_divergence" && std::abs(a) >= 1e-6) {
    constexpr double kLargest = 80;  // as TRL: beyond, the score is constant
    const Tensor t = log_ratio * a, power = at::exp(at::clamp_max(t, kLargest));
    return {(power - 1) / a, power * (t <= kLargest)};
  }
  return {log_ratio, at::ones_like(log_ratio)};
}

// What the loss types are made of.
struct Terms {
  const PairLogProbs& p;
  const PairLossOptions& o;
  Tensor c, r;             // log ratios of policy and reference
  Score chosen, rejected;  // of these
  Tensor x;                // beta * difference of the scores
  Tensor a, b;             // beta * c, beta * r
};

// One number per pair, and its derivatives with respect to the log probabilities, each times the
// pair's weight.
struct PerPair {
  Tensor loss, d_chosen, d_rejected;
};

PerPair Weighted(const Terms& t, const Tensor& loss, const Tensor& d_chosen,
                 const Tensor& d_rejected) {
  const Tensor& w = t.p.weights_P;
  if (!w.defined()) return {loss, d_chosen, d_rejected};
  return {loss * w, d_chosen * w, d_rejected * w};
}

// A loss of x.
PerPair OfDifference(const Terms& t, const Tensor& loss, const Tensor& d_x) {
  const Tensor d = d_x * t.o.beta;
  return Weighted(t, loss, d * t.chosen.slope, -d * t.rejected.slope);
}

// A loss of a and b.
PerPair OfRewards(const Terms& t, const Tensor& loss, const Tensor& d_a, const Tensor& d_b) {
  return Weighted(t, loss, d_a * t.o.beta, d_b * t.o.beta);
}

// A loss of the difference of scores per token.
PerPair OfMeans(const Terms& t, const Tensor& loss, const Tensor& d_difference) {
  return Weighted(t, loss, d_difference * t.chosen.slope / t.p.chosen_tokens_P,
                  -d_difference * t.rejected.slope / t.p.rejected_tokens_P);
}

Tensor MeanDifference(const Terms& t) {
  return t.chosen.value / t.p.chosen_tokens_P - t.rejected.value / t.p.rejected_tokens_P;
}

PerPair SigmoidLoss(const Terms& t) { return OfDifference(t, -LogSigmoid(t.x), -Sigmoid(-t.x)); }

PerPair Hinge(const Terms& t) {
  const Tensor margin = 1 - t.x;
  return OfDifference(t, at::relu(margin), -(margin > 0).to(at::kDouble));
}

PerPair Ipo(const Terms& t) {
  const Tensor gap = MeanDifference(t) - 1 / (2 * t.o.beta);
  return OfMeans(t, gap.square(), 2 * gap);
}

PerPair SigmoidNorm(const Terms& t) {
  const Tensor x = MeanDifference(t) * t.o.beta;
  return OfMeans(t, -LogSigmoid(x), -Sigmoid(-x) * t.o.beta);
}

PerPair ExoPair(const Terms& t) {
  const double e = t.o.label_smoothing;
  const Tensor won = LogSigmoid(t.x) - std::log1p(-e), lost = LogSigmoid(-t.x) - std::log(e);
  return OfDifference(t, Sigmoid(t.x) * won + Sigmoid(-t.x) * lost, Slope(t.x) * (won - lost));
}

PerPair NcaPair(const Terms& t) {
  return OfRewards(t, -LogSigmoid(t.a) - 0.5 * LogSigmoid(-t.a) - 0.5 * LogSigmoid(-t.b),
                   0.5 * Sigmoid(t.a) - Sigmoid(-t.a), 0.5 * Sigmoid(t.b));
}

PerPair Robust(const Terms& t) {
  const double e = t.o.label_smoothing, scale = 1 / (1 - 2 * e);
  return OfDifference(t, (e * LogSigmoid(-t.x) - (1 - e) * LogSigmoid(t.x)) * scale,
                      (-(1 - e) * Sigmoid(-t.x) - e * Sigmoid(t.x)) * scale);
}

PerPair BcoPair(const Terms& t) {
  return OfRewards(t, -LogSigmoid(t.a) - LogSigmoid(-t.b), -Sigmoid(-t.a), Sigmoid(t.b));
}

PerPair SppoHard(const Terms& t) {
  const Tensor win = t.c - 0.5 / t.o.beta, lose = t.r + 0.5 / t.o.beta;
  return Weighted(t, win.square() + lose.square(), 2 * win, 2 * lose);
}

// The loss of sorted differences and its derivative.
struct Sorted {
  Tensor loss, d;
};
Sorted OfSorted(const Terms& t, const Tensor& difference) {
  const double e = t.o.label_smoothing;
  const Tensor x = difference * t.o.beta;
  return {-(1 - e) * LogSigmoid(x) - e * LogSigmoid(-x),
          (e * Sigmoid(x) - (1 - e) * Sigmoid(-x)) * t.o.beta};
}

Tensor Unsorted(const Tensor& d, const Tensor& order) {
  return at::empty_like(d).scatter_(0, order, d);
}

PerPair Aot(const Terms& t) {
  const auto [policy, order] = at::sort(t.p.chosen_P - t.p.rejected_P);
  const Tensor reference = std::get<0>(at::sort(t.p.ref_chosen_P - t.p.ref_rejected_P));
  const Sorted s = OfSorted(t, policy - reference);
  const Tensor d = Unsorted(s.d, order);
  return {s.loss, d, -d};
}

PerPair AotUnpaired(const Terms& t) {
  const auto [chosen, chosen_order] = at::sort(t.c);
  const auto [rejected, rejected_order] = at::sort(t.r);
  const Sorted s = OfSorted(t, chosen - rejected);
  return {s.loss, Unsorted(s.d, chosen_order), -Unsorted(s.d, rejected_order)};
}

PerPair ApoZero(const Terms& t) {
  return OfRewards(t, 1 - Sigmoid(t.a) + Sigmoid(t.b), -Slope(t.a), Slope(t.b));
}

PerPair ApoDown(const Terms& t) {
  const Tensor y = t.a - t.b, d_y = Slope(y);
  return OfRewards(t, Sigmoid(t.a) + 1 - Sigmoid(y), Slope(t.a) - d_y, d_y);
}

PerPair Discopop(const Terms& t) {
  const Tensor m = Sigmoid(t.x / t.o.discopop_tau), d_m = m * (1 - m) / t.o.discopop_tau;
  const Tensor logistic = -LogSigmoid(t.x), exponential = at::exp(-t.x);
  return OfDifference(t, logistic * (1 - m) + exponential * m,
                      -Sigmoid(-t.x) * (1 - m) - exponential * m + (exponential - logistic) * d_m);
}

struct Type {
  const char* name;
  PerPair (*compute)(const Terms&);  // null: sft, which is a mean over tokens
};
constexpr Type kTypes[] = {
    {"sigmoid", SigmoidLoss},      {"hinge", Hinge},        {"ipo", Ipo},
    {"exo_pair", ExoPair},         {"nca_pair", NcaPair},   {"robust", Robust},
    {"bco_pair", BcoPair},         {"sppo_hard", SppoHard}, {"aot", Aot},
    {"aot_unpaired", AotUnpaired}, {"apo_zero", ApoZero},   {"apo_down", ApoDown},
    {"discopop", Discopop},        {"sft", nullptr},        {"sigmoid_norm", SigmoidNorm}};

// Mean cross entropy over all chosen tokens of the micro-batch.
void AddSft(const PairLogProbs& p, double weight, PairLoss* out) {
  const Tensor scale = -weight / p.chosen_tokens_P.sum();
  out->loss = out->loss + p.plain_chosen_P.sum() * scale;
  const Tensor d = scale.expand_as(p.chosen_P);
  out->d_plain_chosen_P = out->d_plain_chosen_P.defined() ? out->d_plain_chosen_P + d : d;
}

}  // namespace

const std::vector<std::string>& PairLossNames() {
  static const auto* const kNames = [] {
    auto* names = new std::vector<std::string>;
    for (const Type& type : kTypes) names->push_back(type.name);
    return names;
  }();
  return *kNames;
}

const std::vector<std::string>& FDivergenceNames() {
  static const auto* const kNames =
      new std::vector<std::string>{"reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"};
  return *kNames;
}

PairLoss ComputePairLoss(const PairLogProbs& p, const PairLossOptions& o) {
  Terms t{p, o, p.chosen_P - p.ref_chosen_P, p.rejected_P - p.ref_rejected_P, {}, {}, {}, {}, {}};
  t.chosen = FDivergence(t.c, o);
  t.rejected = FDivergence(t.r, o);
  t.x = (t.chosen.value - t.rejected.value) * o.beta;
  t.a = t.c * o.beta;
  t.b = t.r * o.beta;

  PairLoss out{at::zeros({}, t.c.options()), at::zeros_like(t.c), at::zeros_like(t.c), {}};
  const double pairs = static_cast<double>(t.c.numel());
  for (size_t i = 0; i < o.loss_types.size(); ++i) {
    const double weight = o.loss_weights.empty() ? 1 : o.loss_weights[i];
    for (const Type& type : kTypes) {
      if (o.loss_types[i] != type.name) continue;
      if (type.compute == nullptr) {
        AddSft(p, weight, &out);
        continue;
      }
      const PerPair one = type.compute(t);
      out.loss = out.loss + one.loss.mean() * weight;
      out.d_chosen_P = out.d_chosen_P + one.d_chosen * (weight / pairs);
      out.d_rejected_P = out.d_rejected_P + one.d_rejected * (weight / pairs);
    }
  }
  return out;
}

}  // namespace finetuned::preference
