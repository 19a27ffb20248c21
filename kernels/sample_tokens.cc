#include "kernels/sample_tokens.h"

#include <ATen/record_function.h>

#include "kernels/dispatch.h"
#include "kernels/sample_tokens_params.h"

namespace finetuned::kernels {

void SampleTokens(const at::Tensor& logits_BV, const at::Tensor& slots_B, SamplingState& state,
                  at::Tensor& out_2B) {
  const char* op = "SampleTokens";
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  TORCH_CHECK(logits_BV.dim() == 2 && logits_BV.size(1) > 0, op, ": logits have shape ",
              logits_BV.sizes(), ", expected [B, V]");
  const at::Device device = logits_BV.device();
  const int64_t B = logits_BV.size(0), V = logits_BV.size(1), W = (V + 31) / 32;
  const int64_t S = state.tokens_S.numel();
  CheckTensor(op, "logits", logits_BV, {B, V}, at::kFloat, device);
  CheckTensor(op, "slots", slots_B, {B}, at::kInt, device);
  CheckTensor(op, "tokens", state.tokens_S, {S}, at::kInt, device);
  CheckTensor(op, "positions", state.positions_S, {S}, at::kInt, device);
  CheckTensor(op, "seen", state.seen_SW, {S, W}, at::kInt, device);
  CheckTensor(op, "params", state.params_SP, {S, static_cast<int64_t>(sizeof(SamplingRow))},
              at::kByte, device);
  CheckTensor(op, "out", out_2B, {2, B}, at::kInt, device);
  if (B == 0) return;
  SampleTokensParams p = {};
  p.logits = logits_BV.const_data_ptr<float>();
  p.slots = slots_B.const_data_ptr<int32_t>();
  p.tokens = state.tokens_S.data_ptr<int32_t>();
  p.positions = state.positions_S.data_ptr<int32_t>();
  p.seen = reinterpret_cast<uint32_t*>(state.seen_SW.data_ptr<int32_t>());
  p.rows = reinterpret_cast<const SamplingRow*>(state.params_SP.const_data_ptr<uint8_t>());
  p.out = out_2B.data_ptr<int32_t>();
  p.B = B;
  p.V = V;
  p.W = W;
  if (logits_BV.is_cuda()) {
    OnCuda(op, logits_BV, [&](auto stream) { SampleTokensCuda(p, stream); });
  } else {
    SampleTokensCpu(p);
  }
}

}  // namespace finetuned::kernels
