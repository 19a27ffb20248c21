// 8-bit dynamic quantization maps of bitsandbytes, shared by the double quantization of NF4 and the
// 8-bit optimizer states.
#pragma once

#include <array>

namespace finetuned::kernels {

// functional.create_dynamic_map(signed): 256 values, ascending, in [-0.99296875, 1] or [0, 1].
const std::array<float, 256>& SignedDynamicMap();
const std::array<float, 256>& UnsignedDynamicMap();

}  // namespace finetuned::kernels
