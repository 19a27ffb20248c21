#include "engine/format/bnb_checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

namespace finetuned::format {
namespace {

using testing::HasSubstr;

// One 4-bit matrix [2, 64] without double quantization, beside a norm, whose parts a test may spoil.
class BnbCheckpoint : public testing::Test {
 protected:
  BnbCheckpoint() {
    std::vector<float> map(16), absmax = {2, 4};
    for (int i = 0; i < 16; ++i) map[i] = static_cast<float>(i - 8) / 8;
    Add("norm.weight", DType::kF32, {64}, std::vector<uint8_t>(256));
    Add("a.weight", DType::kU8, {64, 1}, std::vector<uint8_t>(64, 0x3C));
    Add("a.weight.absmax", DType::kF32, {2}, BytesOf(absmax));
    Add("a.weight.quant_map", DType::kF32, {16}, BytesOf(map));
    State(R"({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [2, 64]})");
  }

  static std::vector<uint8_t> BytesOf(const std::vector<float>& values) {
    std::vector<uint8_t> bytes(values.size() * sizeof(float));
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
  }
  void Add(const std::string& name, DType dtype, std::vector<int64_t> shape, std::vector<uint8_t> bytes) {
    Remove(name);
    tensors_.push_back({name, dtype, std::move(shape), static_cast<int64_t>(bytes.size())});
    data_.push_back(std::move(bytes));
  }
  void Remove(const std::string& name) {
    for (size_t i = 0; i < tensors_.size(); ++i) {
      if (tensors_[i].name != name) continue;
      tensors_.erase(tensors_.begin() + static_cast<std::ptrdiff_t>(i));
      data_.erase(data_.begin() + static_cast<std::ptrdiff_t>(i));
      return;
    }
  }
  void State(const std::string& json) {
    Add("a.weight.quant_state.bitsandbytes__nf4", DType::kU8, {static_cast<int64_t>(json.size())},
        {json.begin(), json.end()});
  }
  absl::Status Fold() {
    bytes_.assign(data_.begin(), data_.end());
    found_.clear();
    return FoldBnbWeights("model.safetensors", &tensors_, &bytes_, &found_);
  }

  std::vector<TensorInfo> tensors_;
  std::vector<std::vector<uint8_t>> data_;
  std::vector<std::span<const uint8_t>> bytes_;
  std::map<std::string, BnbWeight> found_;
};

TEST_F(BnbCheckpoint, PartsBecomeOneMatrix) {
  ASSERT_TRUE(Fold().ok());
  ASSERT_EQ(tensors_.size(), 2u);
  EXPECT_EQ(tensors_[1].name, "a.weight");
  EXPECT_EQ(tensors_[1].dtype, DType::kBnb);
  EXPECT_EQ(tensors_[1].shape, (std::vector<int64_t>{2, 64}));
  std::vector<float> values(128);
  DecodeBnb(found_.at("a.weight"), values);
  // The first of two codes is in the high half: 3 -> -0.625, 12 -> 0.5.
  EXPECT_EQ(values[0], -0.625f * 2);
  EXPECT_EQ(values[1], 0.5f * 2);
  EXPECT_EQ(values[127], 0.5f * 4);
}

TEST_F(BnbCheckpoint, Int8RowsHaveTheirScale) {
  Add("b.weight", DType::kI8, {2, 2}, {127, 0x81, 1, 0});
  Add("b.SCB", DType::kF32, {2}, BytesOf({254, 12.7f}));
  Add("b.weight_format", DType::kU8, {}, {0});
  ASSERT_TRUE(Fold().ok());
  std::vector<float> values(4);
  DecodeBnb(found_.at("b.weight"), values);
  EXPECT_FLOAT_EQ(values[0], 254);
  EXPECT_FLOAT_EQ(values[1], -254);
  EXPECT_FLOAT_EQ(values[2], 0.1f);
  EXPECT_EQ(values[3], 0);
}

TEST_F(BnbCheckpoint, WhatIsWrongIsNamed) {
  State(R"({"quant_type": "nf4", "blocksize": 128, "shape": [2, 64]})");
  EXPECT_EQ(Fold().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(Fold().message()), HasSubstr("blocks of 128 weights"));
  State(R"({"quant_type": "nf4", "blocksize": 64, "shape": [2, 65]})");
  EXPECT_THAT(std::string(Fold().message()), HasSubstr("tensor a.weight: expected 65 bytes, found 64"));
  State(R"({"quant_type": "nf4", "blocksize": 64, "shape": [2, -64]})");
  EXPECT_THAT(std::string(Fold().message()), HasSubstr("shape [2, -64]"));
  State(R"({"quant_type": "nf4")");
  EXPECT_THAT(std::string(Fold().message()), HasSubstr("a.weight.quant_state.bitsandbytes__nf4"));
  State(R"({"quant_type": "nf4", "blocksize": 64, "shape": [2, 64], "nested_offset": 0.5})");
  EXPECT_THAT(std::string(Fold().message()), HasSubstr("a.weight.absmax: expected 2 bytes, found 8"));
  State(R"({"quant_type": "nf4", "blocksize": 64, "shape": [2, 64]})");
  Remove("a.weight.quant_map");
  EXPECT_THAT(std::string(Fold().message()), HasSubstr("a.weight.quant_map: is missing"));
}

}  // namespace
}  // namespace finetuned::format
