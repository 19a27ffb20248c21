#include "kernels/row_codes.h"

#include <map>

#include "tests/unit/kernels/goldens.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

TEST(RowCodes, Int8BitsEqualBitsandbytes) {
  ASSERT_FALSE(Goldens()["int8"].empty());
  for (const auto& golden : Goldens()["int8"]) {
    SCOPED_TRACE(golden["shape"].dump() + " " + golden["dtype"].get<std::string>());
    const auto shape = golden["shape"].get<std::vector<int64_t>>();
    Tensor w = GoldenWeight(c10::multiply_integers(shape), golden["seed"], TypeNamed(golden["dtype"])).view(shape);
    w[1].zero_();
    const RowCodes q = QuantizeToRowCodes(w, at::kChar);
    EXPECT_EQ(Crc(q.codes_OI), golden["codes"]);
    EXPECT_EQ(Crc(q.scale_O), golden["scale"]);
    for (const char* type : {"float32", "bfloat16"}) {
      Tensor out = Poisoned(shape, TypeNamed(type));
      DequantizeRowCodes(q, out);
      EXPECT_EQ(Crc(out), golden[std::string("value_") + type]);
    }
  }
}

// e4m3 keeps three bits of the fraction: half a step is a sixteenth; below the smallest normal number, half of 2^-9.
TEST(RowCodes, Fp8ValuesAreWithinHalfAStep) {
  const Tensor w = Normal({5, 48}, 1).to(at::kFloat);
  const RowCodes q = QuantizeToRowCodes(w, at::kFloat8_e4m3fn);
  Tensor out = Poisoned({5, 48}, at::kFloat);
  DequantizeRowCodes(q, out);
  const Tensor bound = at::maximum(w.abs() / 16, q.scale_O.unsqueeze(1) * 0x1p-10f) * 1.0001;
  EXPECT_TRUE(((out - w).abs() <= bound).all().item<bool>());
}

TEST(RowCodes, RowsOfTheResultMayLieApart) {
  const RowCodes q = QuantizeToRowCodes(Normal({6, 20}, 2).to(at::kFloat), at::kChar);
  Tensor close = Poisoned({6, 20}, at::kFloat), all = at::full({6, 27}, 7.0f), apart = all.narrow(1, 0, 20);
  DequantizeRowCodes(q, close);
  DequantizeRowCodes(q, apart);
  EXPECT_TRUE(at::equal(close, apart));
  EXPECT_EQ(all.narrow(1, 20, 7).min().item<float>(), 7);
}

TEST(RowCodes, WrongPartsAreNamed) {
  RowCodes q = QuantizeToRowCodes(at::ones({4, 16}), at::kChar);
  Tensor out = at::zeros({4, 8});
  EXPECT_THROW(DequantizeRowCodes(q, out), c10::Error);
  out = at::zeros({4, 16}, at::kHalf);
  EXPECT_THROW(DequantizeRowCodes(q, out), c10::Error);
  EXPECT_THROW(QuantizeToRowCodes(at::ones({4}), at::kChar), c10::Error);
  EXPECT_THROW(QuantizeToRowCodes(at::ones({4, 4}), at::kByte), c10::Error);
}

}  // namespace
}  // namespace finetuned::kernels
