// Embedding, dropout and gradient norm.
#include <cmath>

#include "kernels/dropout.h"
#include "kernels/embedding.h"
#include "kernels/finite.h"
#include "kernels/multi_tensor.h"
#include "kernels/philox.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

TEST(Embedding, CopiesRows) {
  for (at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const Tensor table = Normal({100, 576}, 1).to(type);
    const Tensor ids = at::tensor({0, 99, 5, 5, 42}, at::kInt);
    Tensor out = Poisoned({5, 576}, type);
    EmbeddingGather(table, ids, out);
    EXPECT_TRUE(SameBits(out, table.index_select(0, ids)));
  }
}

TEST(Embedding, IdOutsideTheVocabularyIsNamed) {
  Tensor out = at::zeros({2, 4});
  for (int bad : {-1, 10}) {
    try {
      EmbeddingGather(at::zeros({10, 4}), at::tensor({3, bad}, at::kInt), out);
      FAIL() << "id " << bad << " of 10 was accepted";
    } catch (const c10::Error& e) {
      EXPECT_NE(std::string(e.what()).find("at position 1"), std::string::npos) << e.what();
    }
  }
}

// Known answers of the Random123 distribution for philox4x32, 10 rounds.
TEST(Philox, KnownAnswers) {
  const auto expect = [](const PhiloxWords& w, std::vector<uint32_t> known) {
    EXPECT_EQ(std::vector<uint32_t>(w.v, w.v + 4), known);
  };
  expect(Philox(0, 0, 0), {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  expect(Philox(~0ull, ~0ull, ~0ull), {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  expect(Philox(0x85a308d3243f6a88ull, 0x0370734413198a2eull, 0x299f31d0a4093822ull),
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST(Dropout, KeepsTheExpectedShareAndScalesIt) {
  const int64_t n = 1 << 20;
  for (double p : {0.05, 0.1, 0.5, 0.9}) {
    const Tensor x = at::ones({n});
    Tensor y = Poisoned({n}, at::kFloat);
    DropoutForward(x, p, 42, 7, y);
    const Tensor kept = y.ne(0);
    const double share = kept.to(at::kDouble).mean().item<double>();
    EXPECT_NEAR(share, 1 - p, 5 * std::sqrt(p * (1 - p) / n)) << p;
    EXPECT_TRUE(y.masked_select(kept).eq(static_cast<float>(1 / (1 - p))).all().item<bool>());
  }
}

TEST(Dropout, IsAPureFunctionOfSeedOffsetAndIndex) {
  const Tensor x = Normal({1001}, 1).to(at::kFloat);
  const auto run = [&](const Tensor& in, uint64_t seed, uint64_t offset) {
    Tensor y = Poisoned(in.sizes(), in.options());
    DropoutForward(in, 0.3, seed, offset, y);
    return y;
  };
  EXPECT_TRUE(SameBits(run(x, 1, 2), run(x, 1, 2)));
  EXPECT_TRUE(SameBits(run(x.narrow(0, 0, 99).contiguous(), 1, 2), run(x, 1, 2).narrow(0, 0, 99)));
  EXPECT_FALSE(SameBits(run(x, 1, 2), run(x, 1, 3)));
  EXPECT_FALSE(SameBits(run(x, 1, 2), run(x, 3, 2)));
  Tensor in_place = x.clone();
  DropoutForward(in_place, 0.3, 1, 2, in_place);
  EXPECT_TRUE(SameBits(in_place, run(x, 1, 2)));
}

TEST(Dropout, MasksOfDifferentOffsetsAreIndependent) {
  const int64_t n = 1 << 18;
  const auto mask = [&](uint64_t offset) {
    Tensor y = Poisoned({n}, at::kFloat);
    DropoutForward(at::ones({n}), 0.5, 9, offset, y);
    return y.ne(0).to(at::kDouble) - 0.5;
  };
  EXPECT_NEAR((mask(0) * mask(1)).mean().item<double>() * 4, 0, 5 / std::sqrt(double(n)));
}

TEST(Dropout, ZeroCopiesAndOneIsRefused) {
  const Tensor x = Normal({17}, 1).to(at::kBFloat16);
  Tensor y = Poisoned({17}, at::kBFloat16);
  DropoutForward(x, 0, 1, 1, y);
  EXPECT_TRUE(SameBits(x, y));
  EXPECT_THROW(DropoutForward(x, 1.0, 1, 1, y), c10::Error);
}

struct NormResult {
  Tensor norm = Poisoned({1}, at::kFloat), scale = Poisoned({1}, at::kFloat),
         skip = Poisoned({1}, at::kFloat);
};

NormResult Compute(const std::vector<Tensor>& grads, double max_norm) {
  NormResult r;
  GradNormAndScale(grads, max_norm, r.norm, r.scale, r.skip);
  return r;
}

TEST(GradNorm, EqualsTheNormOfAllElements) {
  std::vector<Tensor> grads;
  double squares = 0;
  for (int64_t n : {1, 8191, 8192, 50000}) {
    grads.push_back(Normal({n}, n).to(at::kFloat));
    squares += grads.back().to(at::kDouble).pow(2).sum().item<double>();
  }
  const NormResult r = Compute(grads, 1.0);
  const float norm = static_cast<float>(std::sqrt(squares));
  EXPECT_FLOAT_EQ(r.norm.item<float>(), norm);
  EXPECT_FLOAT_EQ(r.scale.item<float>(), 1.0f / (norm + 1e-6f));
  EXPECT_EQ(r.skip.item<float>(), 0.0f);
}

TEST(GradNorm, NoClippingBelowTheLimitOrWithoutOne) {
  const std::vector<Tensor> grads = {at::full({4}, 0.25f)};
  EXPECT_EQ(Compute(grads, 1.0).scale.item<float>(), 1.0f);
  EXPECT_EQ(Compute({at::full({4}, 100.0f)}, 0.0).scale.item<float>(), 1.0f);
  EXPECT_EQ(Compute({}, 1.0).norm.item<float>(), 0.0f);
}

TEST(GradNorm, NonFiniteGradientsAreFlagged) {
  for (float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Tensor g = at::ones({10000});
    g[9000] = bad;
    EXPECT_EQ(Compute({at::ones({3}), g}, 1.0).skip.item<float>(), 1.0f);
  }
}

struct Entry {
  int64_t n;
};

TEST(MultiTensor, BatchesCoverEveryTensorOnce) {
  using Batch = TensorBatch<Entry, 4>;
  const std::vector<Entry> list = {{1}, {0}, {100}, {101}, {5}, {0}, {7}, {300}};
  Batch batch;
  int64_t elements = 0, blocks = 0;
  for (size_t next = 0; next < list.size();) {
    next = FillBatch(list, next, 100, batch);
    for (int i = 0; i < batch.count; ++i) {
      elements += batch.entry[i].n;
      const int own = batch.first_block[i + 1] - batch.first_block[i];
      EXPECT_EQ(own, (batch.entry[i].n + 99) / 100);
      blocks += own;
    }
  }
  EXPECT_EQ(elements, 514);
  EXPECT_EQ(blocks, 1 + 1 + 2 + 1 + 1 + 3);
}

}  // namespace
}  // namespace finetuned::kernels
