#include "engine/format/quantize.h"

#include <cmath>
#include <limits>

#include "engine/format/dequantize.h"
#include "engine/format/safetensors_reader.h"
#include "tests/unit/engine/format/test_files.h"

namespace finetuned::format {
namespace {

std::vector<float> Floats(std::span<const uint8_t> bytes) {
  std::vector<float> numbers(bytes.size() / sizeof(float));
  EXPECT_TRUE(DecodeToF32(DType::kF32, bytes, numbers).ok());
  return numbers;
}

TEST(Quantize, EveryTypeEqualsTheReferenceByteForByte) {
  const auto file = SafetensorsFile::Open(GoldenPath("encoded.safetensors"));
  ASSERT_TRUE(file.ok()) << file.status();
  const std::vector<float> values = Floats(*(*file)->Raw("values"));
  for (DType type : {DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1,
                     DType::kQ4_K, DType::kQ5_K, DType::kQ6_K}) {
    const auto wanted = (*file)->Raw(std::string(DTypeName(type)) + ".data");
    ASSERT_TRUE(wanted.ok()) << wanted.status();
    std::vector<uint8_t> found(wanted->size());
    ASSERT_TRUE(EncodeFromF32(type, values, found).ok()) << DTypeName(type);
    int64_t different = 0;
    for (size_t i = 0; i < found.size(); ++i) different += found[i] != (*wanted)[i];
    EXPECT_EQ(different, 0) << DTypeName(type) << " of " << found.size() << " bytes";
  }
}

TEST(Quantize, EveryHalfComesBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = HalfToFloat(static_cast<uint16_t>(bits));
    if (std::isnan(value)) continue;
    ASSERT_EQ(FloatToHalf(value), bits);
  }
}

TEST(Quantize, HalfRoundsToNearestEven) {
  EXPECT_EQ(FloatToHalf(1.0f + 0x1p-11f), 0x3c00);              // a tie, down to even
  EXPECT_EQ(FloatToHalf(1.0f + 3 * 0x1p-11f), 0x3c02);          // a tie, up to even
  EXPECT_EQ(FloatToHalf(1.0f + 0x1p-11f + 0x1p-20f), 0x3c01);
  EXPECT_EQ(FloatToHalf(0x1p-25f), 0x0000);                     // half of the smallest subnormal
  EXPECT_EQ(FloatToHalf(0x1.8p-25f), 0x0001);
  EXPECT_EQ(FloatToHalf(65519.0f), 0x7bff);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToHalf(-65520.0f), 0xfc00);
}

TEST(Quantize, NumbersThatAreNotFiniteAreNamed) {
  std::vector<float> values(256, 1.0f);
  values[17] = std::numeric_limits<float>::quiet_NaN();
  std::vector<uint8_t> bytes(144);
  const absl::Status s = EncodeFromF32(DType::kQ4_K, values, bytes);
  EXPECT_EQ(s.message(), "number 17 is nan, expected a finite one");
}

TEST(Quantize, SizesThatDisagreeAreRefused) {
  std::vector<float> values(32);
  std::vector<uint8_t> bytes(33);
  EXPECT_EQ(EncodeFromF32(DType::kQ8_0, values, bytes).message(), "cannot encode 32 numbers as 33 bytes of Q8_0");
  EXPECT_FALSE(EncodeFromF32(DType::kI8, values, bytes).ok());
}

}  // namespace
}  // namespace finetuned::format
