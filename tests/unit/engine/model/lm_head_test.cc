// An NF4 head, part of the vocabulary by part, against a dense head that holds what it dequantizes to.
#include "engine/model/lm_head.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cmath>

namespace finetuned::model {
namespace {

constexpr int64_t kVocabulary = 700, kHidden = 64, kStep = 256, kRows = 9;

class Nf4Head : public testing::TestWithParam<int64_t> {
 protected:
  Nf4Head() {
    at::manual_seed(5);
    stored_ = FrozenLinear::Stored({kernels::Nf4Quantize(at::randn({kVocabulary, kHidden}), true)}, kHidden, {});
    dense_VD_ = stored_.Weight(at::empty({kVocabulary * kHidden})).clone();
  }
  LmHead stored() const { return {.stored = &stored_, .scratch = at::empty({GetParam()})}; }
  LmHead dense() const { return {.dense_VD = dense_VD_}; }

  c10::InferenceMode no_autograd_;
  FrozenLinear stored_;
  at::Tensor dense_VD_;
  Workspace workspace_{at::kCPU};
};

TEST_P(Nf4Head, LogitsEqualTheDequantizedHeads) {
  const at::Tensor rows = at::randn({kRows, kHidden});
  at::Tensor got = at::full({kRows, kVocabulary}, NAN), want = at::empty({kRows, kVocabulary});
  HeadLogits(stored(), rows, got);
  HeadLogits(dense(), rows, want);
  EXPECT_LT((got - want).abs().max().item<double>(), 1e-4);
}

TEST_P(Nf4Head, GradientEqualsTheDequantizedHeads) {
  const at::Tensor dlogits = at::randn({kRows, kVocabulary});
  at::Tensor got = at::full({kRows, kHidden}, NAN), want = at::empty({kRows, kHidden});
  HeadGradient(stored(), dlogits, workspace_, got);
  HeadGradient(dense(), dlogits, workspace_, want);
  EXPECT_LT((got - want).abs().max().item<double>(), 1e-3);
}

TEST_P(Nf4Head, TooLittleMemoryIsNamed) {
  at::Tensor logits = at::empty({1, kVocabulary});
  EXPECT_THROW(HeadLogits({.stored = &stored_, .scratch = at::empty({kStep * kHidden - 1})}, at::randn({1, kHidden}), logits), c10::Error);
}

INSTANTIATE_TEST_SUITE_P(OnePartAndThree, Nf4Head, testing::Values(kVocabulary * kHidden, (kStep + 100) * kHidden));

}  // namespace
}  // namespace finetuned::model
