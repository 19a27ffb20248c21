// Frozen weights as 8-bit codes with one float32 scale per row: INT8 bit-equal to bitsandbytes' LLM.int8
// (int8_vectorwise_quant of the weight in float16), and FP8 (e4m3).
// Legend: O rows (outputs), I columns (inputs).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace finetuned::kernels {

// Value of an element: code * scale of its row. Contiguous, on one device.
struct RowCodes {
  at::Tensor codes_OI;  // kChar (int8) or kFloat8_e4m3fn
  at::Tensor scale_O;   // float32; INT8: bitsandbytes' SCB * (1 / 127)
};

// w_OI: float32, float16 or bfloat16, finite; on the device of the result. codes: kChar or kFloat8_e4m3fn.
// INT8: w is rounded to float16 first, as bitsandbytes does; code = round(w * ((1 / absmax of the row) * 127)), ties to
// even, in float32: the bits of its CPU backend. FP8: code = w / (absmax / 448), rounded to nearest. A row of zeros has scale 0.
RowCodes QuantizeToRowCodes(const at::Tensor& w_OI, at::ScalarType codes);

// out_OI: float32 or bfloat16, written; rows may lie further apart. One rounding of code * scale. No host sync.
void DequantizeRowCodes(const RowCodes& w, at::Tensor& out_OI);

}  // namespace finetuned::kernels
