// What every op's dispatch file needs: dtype names without torch, checks, and the way to the GPU.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/dtype.h"

#ifdef FINETUNED_HAVE_CUDA
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace finetuned::kernels {

// Throws c10::Error naming op and name unless t is defined, contiguous, and of this shape, dtype
// and device.
void CheckTensor(const char* op, const char* name, const at::Tensor& t, at::IntArrayRef shape,
                 at::ScalarType dtype, at::Device device);

// The same for a matrix whose rows may lie further apart than their length; returns the elements from row
// to row.
int64_t CheckRows(const char* op, const char* name, const at::Tensor& t, at::IntArrayRef shape,
                  at::ScalarType dtype, at::Device device);

// The Dtype of t, if op supports it on t's device: float32 and float64 on the CPU, float32 and
// bfloat16 on CUDA. Otherwise throws, naming op, dtype and what is supported.
Dtype DtypeOf(const char* op, const at::Tensor& t);

// Calls launch(stream) on x's device and current stream and checks the launch. A build without CUDA
// throws; launch must be a generic lambda, so that its body is compiled only with CUDA.
template <typename Launch>
void OnCuda(const char* op, const at::Tensor& x, Launch&& launch) {
#ifdef FINETUNED_HAVE_CUDA
  c10::cuda::CUDAGuard guard(x.device());
  launch(c10::cuda::getCurrentCUDAStream().stream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
#else
  TORCH_CHECK(false, op, ": this build has no CUDA kernels, the tensor is on ", x.device());
#endif
}

}  // namespace finetuned::kernels
