// Plain parameters of the cross entropy. Legend: C rows, V vocabulary size.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace finetuned::kernels {

struct CrossEntropyParams {
  void* logits;           // [C, V]; with write_grad replaced by the gradient
  const int32_t* labels;  // [C], negative = ignored
  const float* scale;     // [1] or [C]
  int64_t scale_stride;   // 0 or 1
  float* loss;            // [C]
  float* entropy;         // [C] or null
  uint8_t* correct;       // [C] or null
  int64_t C;
  int64_t V;
  double label_smoothing;
  bool write_grad;
  bool narrow_grad;       // float32 logits: the gradient as bfloat16 in the front half of each row
  const float* d_entropy; // [C] or null; then entropy is not null
  float softcap;          // 0: none
};

// Labels are below V.
void CrossEntropyCpu(const CrossEntropyParams& p, Dtype dtype);
void CrossEntropyCuda(const CrossEntropyParams& p, Dtype dtype, CudaStream stream);

}  // namespace finetuned::kernels
