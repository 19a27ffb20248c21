// Fixture and inputs of the tests that need a GPU. The truth is the CPU op in float64 on the very
// values that the GPU gets; outputs hold NaN before the call.
#pragma once

#include <ATen/ATen.h>

#include <iostream>
#include <random>

#include "tests/unit/kernels/kernel_testing.h"

namespace finetuned::kernels {

inline const std::vector<at::ScalarType> kGpuTypes = {at::kFloat, at::kBFloat16};

// Inputs are new in every run; --gtest_random_seed=N repeats one.
inline uint64_t FreshSeed() {
  static uint64_t next = [] {
    uint64_t base = static_cast<uint64_t>(::testing::GTEST_FLAG(random_seed));
    if (base == 0) base = std::random_device()() % 99999 + 1;
    std::cout << "[   SEED   ] repeat with --gtest_random_seed=" << base << std::endl;
    return base << 20;
  }();
  return next++;
}

class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!at::hasCUDA() || at::getNumGPUs() == 0) GTEST_SKIP() << "no CUDA device on this machine";
  }
};

// An input: float64 on the CPU with values of dtype, and the same on the GPU.
struct Input {
  at::Tensor truth;
  at::Tensor gpu;
};

inline at::Tensor ToGpu(const at::Tensor& x, at::ScalarType dtype) {
  return x.to(dtype).to(at::kCUDA);
}

inline Input FreshInput(at::IntArrayRef shape, at::ScalarType dtype, double factor = 1) {
  const at::Tensor truth = (Normal(shape, FreshSeed()) * factor).to(dtype).to(at::kDouble);
  return {truth, ToGpu(truth, dtype)};
}

inline at::TensorOptions OnGpu(at::ScalarType dtype) { return at::dtype(dtype).device(at::kCUDA); }

// A copy of x whose data is not 16-byte aligned.
inline at::Tensor Misaligned(const at::Tensor& x) {
  at::Tensor memory = at::empty({x.numel() + 1}, x.options());
  at::Tensor view = memory.narrow(0, 1, x.numel()).view(x.sizes());
  view.copy_(x);
  return view;
}

}  // namespace finetuned::kernels
