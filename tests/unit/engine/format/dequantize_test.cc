#include "engine/format/dequantize.h"

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "engine/format/safetensors_reader.h"
#include "engine/format/sha256.h"
#include "tests/unit/engine/format/test_files.h"

namespace finetuned::format {
namespace {

TEST(Dequantize, EveryTypeIsBitEqualToTheGgufPackage) {
  const auto file = SafetensorsFile::Open(GoldenPath("blocks.safetensors"));
  ASSERT_TRUE(file.ok()) << file.status();
  for (DType dtype :
       {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1,
        DType::kQ5_0, DType::kQ5_1, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K}) {
    const std::string name = DTypeName(dtype);
    const auto data = (*file)->Raw(name + ".data");
    const auto expected = (*file)->Raw(name + ".f32");
    ASSERT_TRUE(data.ok() && expected.ok()) << name;
    std::vector<float> out(expected->size() / 4);
    const absl::Status status = DecodeToF32(dtype, *data, std::span<float>(out));
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(std::memcmp(out.data(), expected->data(), expected->size()), 0) << name;
  }
}

TEST(Dequantize, EveryHalfConvertsAsNumpyDoes) {
  const auto goldens = nlohmann::json::parse(ReadFile(GoldenPath("goldens.json")));
  std::vector<float> floats;
  for (int bits = 0; bits < 65536; ++bits) {
    const float value = HalfToFloat(static_cast<uint16_t>(bits));
    const bool nan = (bits & 0x7c00) == 0x7c00 && (bits & 0x3ff) != 0;
    EXPECT_EQ(std::isnan(value), nan) << bits;
    if (!nan) floats.push_back(value);
  }
  EXPECT_EQ(Sha256Hex(BytesOf(floats)), goldens["f16_all_but_nan"]);
}

TEST(Dequantize, SizesAndTypesThatDoNotMatchAreRefused) {
  std::vector<uint8_t> bytes(18);
  std::vector<float> out(31);
  ExpectError(DecodeToF32(DType::kQ4_0, bytes, std::span<float>(out)),
              absl::StatusCode::kInvalidArgument, {"18 bytes of Q4_0 into 31 numbers"});
  out.resize(18);
  ExpectError(DecodeToF32(DType::kU8, bytes, std::span<float>(out)),
              absl::StatusCode::kInvalidArgument, {"U8 numbers are not weights"});
}

TEST(TensorInfo, BytesOfOverflowingShapesAreRefused) {
  const std::vector<int64_t> huge = {int64_t{1} << 31, int64_t{1} << 31, 4};
  ExpectError(StorageBytes(DType::kF32, huge).status(), absl::StatusCode::kInvalidArgument,
              {"overflows"});
  const std::vector<int64_t> wide = {int64_t{1} << 61};
  ExpectError(StorageBytes(DType::kF64, wide).status(), absl::StatusCode::kInvalidArgument,
              {"overflows"});
  const std::vector<int64_t> odd = {2, 100};
  ExpectError(StorageBytes(DType::kQ4_K, odd).status(), absl::StatusCode::kInvalidArgument,
              {"[2, 100]", "multiple of the Q4_K block of 256"});
}

}  // namespace
}  // namespace finetuned::format
