#include "kernels/nf4.h"

#include <map>

#include "kernels/blockwise8.h"
#include "tests/unit/kernels/goldens.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

TEST(Nf4, MapsEqualBitsandbytes) {
  const auto tensor = [](const std::array<float, 256>& map) {
    return at::from_blob(const_cast<float*>(map.data()), {256}, at::kFloat);
  };
  EXPECT_EQ(Crc(tensor(SignedDynamicMap())), Goldens()["signed_map"]);
  EXPECT_EQ(Crc(tensor(UnsignedDynamicMap())), Goldens()["unsigned_map"]);
}

void ExpectBitsOf(const char* goldens, FourBitType type) {
  for (const auto& golden : Goldens()[goldens]) {
    SCOPED_TRACE(golden["shape"].dump() + " " + golden["dtype"].get<std::string>());
    const auto shape = golden["shape"].get<std::vector<int64_t>>();
    const int64_t n = c10::multiply_integers(shape);
    const Tensor w = GoldenWeight(n, golden["seed"], TypeNamed(golden["dtype"])).view(shape);
    const Nf4Tensor plain = Nf4Quantize(w, false, type), nested = Nf4Quantize(w, true, type);
    EXPECT_EQ(Crc(plain.codes), golden["codes"]);
    EXPECT_EQ(Crc(plain.absmax), golden["absmax"]);
    EXPECT_EQ(Crc(nested.codes), golden["codes"]);
    EXPECT_EQ(Crc(nested.absmax_q), golden["absmax_q"]);
    EXPECT_EQ(Crc(nested.absmax2), golden["absmax2"]);
    EXPECT_EQ(nested.offset, golden["offset"].get<float>());
    EXPECT_EQ(nested.shape, shape);
    for (const char* type : {"float32", "bfloat16"}) {
      Tensor out = Poisoned(shape, TypeNamed(type));
      Nf4Dequantize(plain, out);
      EXPECT_EQ(Crc(out), golden[std::string("plain_") + type]);
      out = Poisoned(shape, TypeNamed(type));
      Nf4Dequantize(nested, out);
      EXPECT_EQ(Crc(out), golden[std::string("nested_") + type]);
    }
  }
}

TEST(Nf4, BitsEqualBitsandbytes) { ExpectBitsOf("nf4", FourBitType::kNf4); }

TEST(Nf4, Fp4BitsEqualBitsandbytes) { ExpectBitsOf("fp4", FourBitType::kFp4); }
TEST(Nf4, RowsAreViewsThatDequantizeAlike) {
  for (const bool nested : {false, true}) {
    const int64_t rows = 700, columns = 192, step = Nf4RowStep(columns);
    ASSERT_EQ(step, 256);
    const Nf4Tensor all = Nf4Quantize(at::randn({rows, columns}), nested);
    Tensor whole = Poisoned({rows, columns}, at::kFloat);
    Nf4Dequantize(all, whole);
    for (const int64_t first : {int64_t{0}, step, 2 * step}) {
      for (const int64_t count : {int64_t{1}, int64_t{3}, rows - 2 * step}) {
        Tensor some = Poisoned({count, columns}, at::kFloat);
        Nf4Dequantize(Nf4Rows(all, first, count), some);
        EXPECT_TRUE(SameBits(some, whole.narrow(0, first, count))) << first << " " << count;
      }
    }
    EXPECT_THROW(Nf4Rows(all, 1, 1), c10::Error);
    EXPECT_THROW(Nf4Rows(all, 2 * step, rows), c10::Error);
  }
}

TEST(Nf4, ZerosStayZero) {
  const Nf4Tensor q = Nf4Quantize(at::zeros({200}), true);
  Tensor out = Poisoned({200}, at::kFloat);
  Nf4Dequantize(q, out);
  EXPECT_TRUE(out.abs().max().item<float>() < 1e-37) << out.abs().max();
}

TEST(Nf4, WrongPartsAreNamed) {
  Nf4Tensor q = Nf4Quantize(at::ones({128}), true);
  Tensor out = at::zeros({64});
  EXPECT_THROW(Nf4Dequantize(q, out), c10::Error);  // sizes differ
  out = at::zeros({128}, at::kHalf);
  EXPECT_THROW(Nf4Dequantize(q, out), c10::Error);
  EXPECT_THROW(Nf4Quantize(at::ones({4, 4}).t(), true), c10::Error);
  EXPECT_THROW(Nf4Quantize(at::ones({4}, at::kInt), true), c10::Error);
}

}  // namespace
}  // namespace finetuned::kernels
