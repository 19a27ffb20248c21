// Ops of decoding on the CPU: paged attention, choice of tokens, NF4 product of few rows.
#include <cmath>
#include <map>

#include "tests/unit/kernels/decode_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

TEST(PagedAttention, EqualsAttentionOverTheWholeSequence) {
  for (at::ScalarType type : {at::kFloat, at::kDouble}) {
    const PagedFixture f({1, 15, 16, 17, 100}, 6, 2, 32, at::kFloat, 3);
    // In float64 the scale, which is kept as float32, is what is left.
    EXPECT_LT(RelativeError(f.Attend(type, at::kCPU, 1), f.Truth()), type == at::kFloat ? 1e-6 : 3e-8);
  }
}

TEST(PagedAttention, RefusesOtherShapes) {
  PagedCache cache{at::zeros({3, 2, 8, 4}), at::zeros({3, 2, 8, 4})};
  const PagedRows rows{at::zeros({1}, at::kInt), at::zeros({1}, at::kInt), at::zeros({1, 1}, at::kInt)};
  EXPECT_THROW(WritePaged(at::zeros({1, 2, 4}), at::zeros({1, 2, 4}), rows, cache), c10::Error);
}

TEST(SampleTokens, GreedyTakesTheLargestAndThePenaltyCounts) {
  SamplingRow greedy;
  greedy.inverse_temperature = 0;
  SamplingRow penalized = greedy;
  penalized.penalty = 2;
  SamplingFixture f({greedy, penalized}, 40);
  Tensor logits = at::zeros({2, 40});
  logits.select(1, 7).fill_(3.0);
  logits.select(1, 9).fill_(2.0);
  logits.select(1, 0).fill_(-1.0);
  f.MarkSeen(1, 7);  // 3 / 2 < 2
  const auto [tokens, logprobs] = f.Sample(logits);
  EXPECT_EQ(tokens[0].item<int>(), 9);  // row 0 is slot 1
  EXPECT_EQ(tokens[1].item<int>(), 7);
  // The log-probability knows no penalty.
  EXPECT_LT(RelativeError(logprobs[0], logits[0].log_softmax(0)[9]), 1e-6);
  EXPECT_EQ(f.state.tokens_S[1].item<int>(), 9);
  EXPECT_EQ(f.state.positions_S[1].item<int>(), 12);
  // Both are seen now: 2 / 2 is still the largest of what is left.
  EXPECT_EQ(f.Sample(logits).first[0].item<int>(), 7);
}

// Which tokens ever come, and how often, against the renormalized softmax of what transformers keeps.
void ExpectDistribution(SamplingRow row, const Tensor& logits_V, const std::vector<bool>& kept) {
  const int64_t V = logits_V.numel(), draws = 4000;
  row.seed = 11;
  std::vector<SamplingRow> rows(static_cast<size_t>(draws), row);
  for (int64_t i = 0; i < draws; ++i) rows[i].sample = static_cast<uint32_t>(i);
  SamplingFixture f(rows, V);
  const Tensor tokens = f.Sample(logits_V.expand({draws, V}).contiguous()).first;
  std::vector<double> seen(static_cast<size_t>(V));
  for (int64_t i = 0; i < draws; ++i) seen[tokens[i].item<int>()] += 1;
  Tensor p = (logits_V.to(at::kDouble) * row.inverse_temperature).softmax(0);
  double whole = 0, statistic = 0;
  int degrees = -1;
  for (int64_t v = 0; v < V; ++v) whole += kept[v] ? p[v].item<double>() : 0;
  for (int64_t v = 0; v < V; ++v) {
    if (!kept[v]) {
      EXPECT_EQ(seen[v], 0) << v;
      continue;
    }
    const double expected = static_cast<double>(draws) * p[v].item<double>() / whole;
    statistic += (seen[v] - expected) * (seen[v] - expected) / expected;
    ++degrees;
  }
  EXPECT_LT(statistic, degrees + 4 * std::sqrt(2.0 * degrees + 1));
}

TEST(SampleTokens, FollowsTheSoftmaxOfWhatIsKept) {
  // Probabilities 0.4 0.3 0.15 0.1 0.05 at temperature 1, in no order.
  const std::vector<double> p = {0.15, 0.4, 0.05, 0.3, 0.1};
  Tensor logits = at::tensor(p, at::kDouble).log().to(at::kFloat) + 3;
  ExpectDistribution({}, logits, {true, true, true, true, true});
  SamplingRow row;
  row.top_k = 2;
  ExpectDistribution(row, logits, {false, true, false, true, false});
  row = {};
  row.top_p = 0.75;  // 0.4 + 0.3 < 0.75: the third belongs to it
  ExpectDistribution(row, logits, {true, true, false, true, false});
  row.top_k = 3;  // shares of the three: 0.47 0.35 0.18
  ExpectDistribution(row, logits, {false, true, false, true, false});
  row = {};
  row.log_min_p = std::log(0.3f);  // 0.12
  ExpectDistribution(row, logits, {true, true, false, true, false});
  row = {};
  row.inverse_temperature = 2;
  ExpectDistribution(row, logits, {true, true, true, true, true});
}

TEST(SampleTokens, SeedSampleAndPositionAloneDecide) {
  SamplingRow row;
  row.seed = 5;
  const Tensor logits = Normal({1, 500}, 3).to(at::kFloat);
  std::map<int, int> by_position;
  SamplingFixture a({row}, 500), b({row}, 500);
  for (int i = 0; i < 20; ++i) {
    const int token = a.Sample(logits).first.item<int>();
    EXPECT_EQ(token, b.Sample(logits).first.item<int>());
    ++by_position[token];
  }
  EXPECT_GT(by_position.size(), 10u);
}

TEST(Nf4Gemm, EqualsTheProductWithTheDequantizedWeight) {
  for (bool nested : {true, false}) {
    const auto parts = QuantizedParts({48, 16, 32}, 192, nested, 5);
    const Tensor x = Spread(Normal({5, 192}, 9).to(at::kFloat), 8), bias = Normal({96}, 10).to(at::kFloat);
    LowRankTerm low;
    low.u_MG = Spread(Normal({5, 7}, 11).to(at::kFloat), 3);
    low.parts = {{Normal({48, 4}, 12).to(at::kFloat), 0}, {Normal({32, 3}, 13).to(at::kFloat), 64}};
    low.scale = 0.5;
    Tensor y = Poisoned({5, 96}, at::kFloat);
    Nf4Gemm(parts, x, bias, low, 1, {}, y);
    EXPECT_LT(RelativeError(y, ProductTruth(parts, x, bias, low, at::kFloat)), 1e-6);
    Nf4Gemm(parts, x, {}, {}, 1, {}, y);
    EXPECT_LT(RelativeError(y, ProductTruth(parts, x, {}, {}, at::kFloat)), 1e-6);
  }
}

TEST(Nf4Gemm, RefusesBlocksThatCrossRows) {
  const auto parts = QuantizedParts({4}, 96, true, 5);
  EXPECT_FALSE(Nf4GemmSupports(parts, 96));
  Tensor y = at::zeros({1, 4});
  EXPECT_THROW(Nf4Gemm(parts, at::zeros({1, 96}), {}, {}, 1, {}, y), c10::Error);
}

}  // namespace
}  // namespace finetuned::kernels
