// Times every kernel on the GPU: one JSON line per op and shape with the median time of a call, the
// bytes it must move, GB/s, and the share of the copy bandwidth measured at the start of the run.
// Usage: kernel_bench [filter]; filter is a part of the op's name.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAEvent.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "kernels/adamw.h"
#include "kernels/cross_entropy.h"
#include "kernels/dropout.h"
#include "kernels/embedding.h"
#include "kernels/finite.h"
#include "kernels/gate_low_rank.h"
#include "kernels/low_rank_gradients.h"
#include "kernels/nf4.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"
#include "kernels/varlen_attention.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

constexpr auto kBf16 = at::kBFloat16;

Tensor Random(at::IntArrayRef shape, at::ScalarType dtype) {
  return at::randn(shape, at::dtype(dtype).device(at::kCUDA));
}

Tensor Empty(at::IntArrayRef shape, at::ScalarType dtype) {
  return at::empty(shape, at::dtype(dtype).device(at::kCUDA));
}

// Median seconds of a call.
double Time(const std::function<void()>& call) {
  constexpr int kWarmUp = 5, kCalls = 30;
  for (int i = 0; i < kWarmUp; ++i) call();
  std::vector<double> seconds;
  for (int i = 0; i < kCalls; ++i) {
    at::cuda::CUDAEvent begin(cudaEventDefault), end(cudaEventDefault);
    begin.record();
    call();
    end.record();
    end.synchronize();
    seconds.push_back(begin.elapsed_time(end) * 1e-3);
  }
  std::nth_element(seconds.begin(), seconds.begin() + kCalls / 2, seconds.end());
  return seconds[kCalls / 2];
}

class Bench {
 public:
  explicit Bench(std::string filter) : filter_(std::move(filter)) {
    const Tensor from = Empty({1 << 29}, at::kByte), to = Empty({1 << 29}, at::kByte);
    copy_gb_s_ = 2.0 * (1 << 29) / Time([&] { const_cast<Tensor&>(to).copy_(from); }) * 1e-9;
    std::printf("{\"op\": \"copy\", \"shape\": \"512 MiB\", \"gb_s\": %.1f}\n", copy_gb_s_);
  }

  bool Wants(const std::string& op) const { return op.find(filter_) != std::string::npos; }

  void Run(const std::string& op, const std::string& shape, double bytes,
           const std::function<void()>& call) const {
    const double seconds = Time(call), gb_s = bytes / seconds * 1e-9;
    std::printf(
        "{\"op\": \"%s\", \"shape\": \"%s\", \"us\": %.1f, \"gb_s\": %.1f, \"of_copy\": %.3f}\n",
        op.c_str(), shape.c_str(), seconds * 1e6, gb_s, gb_s / copy_gb_s_);
    std::fflush(stdout);
  }

 private:
  std::string filter_;
  double copy_gb_s_ = 0;
};

// Sizes of a model; T tokens are packed into one stream.
struct Model {
  const char* name;
  int64_t T, D, F, V, H, K, E;
};

constexpr Model kModels[] = {
    {"SmolLM2-135M", 16384, 576, 1536, 49152, 9, 3, 64},
    {"Llama-3.1-8B", 8192, 4096, 14336, 128256, 32, 8, 128},
};

std::string Shape(const Model& m, int64_t a, int64_t b) {
  return std::string(m.name) + " " + std::to_string(a) + "x" + std::to_string(b);
}

void RunNorm(const Bench& bench, const Model& m) {
  if (!bench.Wants("rms_norm")) return;
  Tensor x = Random({m.T, m.D}, kBf16), delta = Random({m.T, m.D}, kBf16);
  Tensor y = Empty({m.T, m.D}, kBf16), rstd = Empty({m.T}, at::kFloat), w = Random({m.D}, kBf16);
  const double row = 2.0 * m.T * m.D;
  const std::string shape = Shape(m, m.T, m.D);
  bench.Run("rms_norm", shape, 2 * row, [&] { RmsNormForward(x, w, 1e-5, y, rstd); });
  bench.Run("rms_norm_add", shape, 4 * row, [&] { AddRmsNormForward(x, delta, w, 1e-5, x, y, rstd); });
  bench.Run("rms_norm_backward", shape, 4 * row,
            [&] { RmsNormBackward(delta, x, w, rstd, true, y); });
}

// Adapters on gate and up.
std::vector<LowRankGradientPart> GateUpParts(const Model& m, int64_t rank) {
  std::vector<LowRankGradientPart> parts;
  for (int64_t i = 0; i < 2; ++i) {
    parts.push_back({Random({m.F, rank}, kBf16), Random({m.F, rank}, at::kFloat), i * m.F});
  }
  return parts;
}

// Of the fused MLP input, whose gradient is the widest; beside it what LibTorch's products take.
void RunLowRankGradients(const Bench& bench, const Model& m) {
  if (!bench.Wants("low_rank_gradients")) return;
  constexpr int64_t kRank = 16;
  const int64_t groups = 2 * ((m.F + 511) / 512), splits = std::max<int64_t>(1, 264 / groups);
  const Tensor dy = Random({m.T, 2 * m.F + 32}, kBf16).narrow(1, 0, 2 * m.F), u = Random({m.T, 2 * kRank}, kBf16);
  Tensor du = Empty({m.T, 2 * kRank}, kBf16);
  const Tensor scratch = Empty({(groups * m.T + splits * 2 * m.F) * kRank}, at::kFloat);
  const std::vector<LowRankGradientPart> parts = GateUpParts(m, kRank);
  const double bytes = 2.0 * m.T * 2 * m.F;
  const std::string shape = Shape(m, m.T, 2 * m.F);
  bench.Run("low_rank_gradients", shape, bytes, [&] { LowRankGradients(dy, u, parts, 2, splits, scratch, du); });
  bench.Run("low_rank_gradients as products", shape, bytes, [&] {
    for (int64_t i = 0; i < 2; ++i) {
      const Tensor of_part = dy.narrow(1, i * m.F, m.F);
      Tensor du_part = du.narrow(1, i * kRank, kRank), db = parts[i].db_OR;
      at::addmm_out(du_part, du_part, of_part, parts[i].b_OR, 0, 2);
      at::addmm_out(db, db, of_part.t(), u.narrow(1, i * kRank, kRank), at::kFloat, 1, 2);
    }
  });
}

// In place, so that its input changes from call to call; beside it the two ops that it replaces.
void RunGateLowRank(const Bench& bench, const Model& m) {
  if (!bench.Wants("gate_low_rank")) return;
  constexpr int64_t kRank = 16;
  const int64_t blocks = (m.F + 511) / 512, splits = std::max<int64_t>(1, 264 / blocks);
  const Tensor dh = Random({m.T, m.F}, kBf16), u = Random({m.T, 2 * kRank}, kBf16);
  Tensor gate_up = Random({m.T, 2 * m.F + 32}, kBf16).narrow(1, 0, 2 * m.F), du = Empty({m.T, 2 * kRank}, kBf16);
  const Tensor scratch = Empty({(2 * blocks * m.T + splits * 2 * m.F) * kRank}, at::kFloat);
  const std::vector<LowRankGradientPart> parts = GateUpParts(m, kRank);
  const double row = 2.0 * m.T * m.F;
  const std::string shape = Shape(m, m.T, m.F);
  bench.Run("gate_low_rank", shape, 5 * row, [&] { GateLowRankBackward(dh, gate_up, u, parts, 2, splits, scratch, du); });
  const int64_t groups = 2 * ((m.F + 511) / 512), of_two = std::max<int64_t>(1, 264 / groups);
  bench.Run("gate_low_rank as two ops", shape, 5 * row, [&] {
    SwigluBackward(dh, gate_up, gate_up);
    LowRankGradients(gate_up, u, parts, 2, of_two, scratch, du);
  });
}

void RunRope(const Bench& bench, const Model& m) {
  if (!bench.Wants("rope")) return;
  Tensor x = Random({m.T, m.H, m.E}, kBf16);
  const Tensor positions = at::arange(m.T, at::kInt).cuda();
  const Tensor inv = at::rand({m.E / 2}, at::kFloat).cuda();
  bench.Run("rope", Shape(m, m.T, m.H * m.E), 4.0 * m.T * m.H * m.E,
            [&] { RopeInPlace(x, positions, inv, 1); });
}

void RunSwiglu(const Bench& bench, const Model& m) {
  if (!bench.Wants("swiglu")) return;
  Tensor x = Random({m.T, 2 * m.F}, kBf16), dh = Random({m.T, m.F}, kBf16);
  Tensor h = Empty({m.T, m.F}, kBf16), d = Empty({m.T, 2 * m.F}, kBf16);
  const double row = 2.0 * m.T * m.F;
  bench.Run("swiglu", Shape(m, m.T, m.F), 3 * row, [&] { SwigluForward(x, h); });
  bench.Run("swiglu_backward", Shape(m, m.T, m.F), 5 * row, [&] { SwigluBackward(dh, x, d); });
  bench.Run("swiglu_backward_h", Shape(m, m.T, m.F), 6 * row, [&] { SwigluBackward(dh, x, d, h); });
}

void RunCrossEntropy(const Bench& bench, const Model& m) {
  if (!bench.Wants("cross_entropy")) return;
  const int64_t C = 2048;
  const Tensor labels = (at::arange(C, at::kInt) * 31 % m.V).to(at::kInt).cuda();
  const Tensor scale = at::ones({1}, at::kFloat).cuda();
  Tensor loss = Empty({C}, at::kFloat), entropy = Empty({C}, at::kFloat);
  const Tensor correct = Empty({C}, at::kByte);
  for (at::ScalarType type : {kBf16, at::kFloat}) {
    Tensor logits = Random({C, m.V}, type);
    const double bytes = static_cast<double>(logits.nbytes());
    const std::string shape = Shape(m, C, m.V) + (type == kBf16 ? " bf16" : " f32");
    bench.Run("cross_entropy_loss", shape, bytes,
              [&] { CrossEntropyChunk(logits, labels, scale, 0, false, loss); });
    bench.Run("cross_entropy_loss_entropy", shape, bytes,
              [&] { CrossEntropyChunk(logits, labels, scale, 0, false, loss, entropy, correct); });
    bench.Run("cross_entropy_grad", shape, 3 * bytes,
              [&] { CrossEntropyChunk(logits, labels, scale, 0, true, loss); });
  }
}

void RunNf4(const Bench& bench, const Model& m) {
  if (!bench.Wants("nf4")) return;
  const int64_t n = m.F * m.D;
  const Tensor w = Random({m.F, m.D}, kBf16);
  const Nf4Tensor plain = Nf4Quantize(w, false), nested = Nf4Quantize(w, true);
  for (at::ScalarType type : {kBf16, at::kFloat}) {
    Tensor out = Empty({m.F, m.D}, type);
    const std::string shape = Shape(m, m.F, m.D) + (type == kBf16 ? " bf16" : " f32");
    const double out_bytes = static_cast<double>(out.nbytes());
    bench.Run("nf4_dequantize", shape, out_bytes + n / 2.0 + n / 16.0,
              [&] { Nf4Dequantize(plain, out); });
    bench.Run("nf4_dequantize_nested", shape, out_bytes + n / 2.0 + n / 64.0,
              [&] { Nf4Dequantize(nested, out); });
  }
  bench.Run("nf4_quantize", Shape(m, m.F, m.D), 2.5 * n, [&] { Nf4Quantize(w, false); });
}

// LoRA of rank 16 on seven projections of 32 layers.
void RunOptimizers(const Bench& bench, const Model& m) {
  if (!bench.Wants("adamw") && !bench.Wants("grad_norm")) return;
  std::vector<Tensor> p, g, mm, vv;
  std::vector<Adam8bitState> states;
  double n = 0;
  for (int i = 0; i < 32 * 7 * 2; ++i) {
    const int64_t size = 16 * (i % 3 == 0 ? m.F : m.D);
    p.push_back(Random({size}, at::kFloat));
    g.push_back(Random({size}, at::kFloat));
    mm.push_back(at::zeros_like(p.back()));
    vv.push_back(at::zeros_like(p.back()));
    states.push_back(NewAdam8bitState(p.back()));
    n += static_cast<double>(size);
  }
  const AdamWOptions o = {.lr = 1e-4, .weight_decay = 0.01};
  Tensor norm = Empty({1}, at::kFloat), scale = Empty({1}, at::kFloat);
  Tensor skip = Empty({1}, at::kFloat);
  const std::string shape = std::string(m.name) + " " + std::to_string(p.size()) + " tensors, " +
                            std::to_string(static_cast<int64_t>(n)) + " elements";
  bench.Run("grad_norm", shape, 4 * n, [&] { GradNormAndScale(g, 1.0, norm, scale, skip); });
  bench.Run("adamw", shape, 28 * n, [&] { AdamWStep(p, g, mm, vv, o, scale, skip); });
  bench.Run("adamw_8bit", shape, 16 * n, [&] { AdamW8bitStep(p, g, states, o, scale, skip); });
}

void RunRest(const Bench& bench, const Model& m) {
  Tensor x = Random({m.T, m.D}, kBf16), y = Empty({m.T, m.D}, kBf16);
  const double bytes = 2.0 * m.T * m.D;
  if (bench.Wants("dropout")) {
    bench.Run("dropout", Shape(m, m.T, m.D), 2 * bytes, [&] { DropoutForward(x, 0.1, 1, 2, y); });
  }
  if (bench.Wants("embedding")) {
    const Tensor table = Random({m.V, m.D}, kBf16);
    const Tensor ids = at::randint(m.V, {m.T}, at::kInt).cuda();
    bench.Run("embedding", Shape(m, m.T, m.D), 2 * bytes, [&] { EmbeddingGather(table, ids, y); });
  }
}

// Documents of L = 1024 tokens. GB/s says little here: 2 T L E H operations forward, 2.5 times as
// many backward.
void RunAttention(const Bench& bench, const Model& m) {
  if (!bench.Wants("attention")) return;
  std::vector<int32_t> cu;
  for (int64_t t = 0; t <= m.T; t += 1024) cu.push_back(static_cast<int32_t>(t));
  const Tensor cu_seqlens = at::tensor(cu, at::kInt).cuda();
  const Tensor q = Random({m.T, m.H, m.E}, kBf16), dout = Random({m.T, m.H, m.E}, kBf16);
  const Tensor k = Random({m.T, m.K, m.E}, kBf16), v = Random({m.T, m.K, m.E}, kBf16);
  const double scale = 1.0 / std::sqrt(static_cast<double>(m.E));
  const double q_bytes = 2.0 * m.T * m.H * m.E, k_bytes = 2.0 * m.T * m.K * m.E;
  Tensor out, lse;
  VarlenAttentionForward(q, k, v, cu_seqlens, cu, 1024, {scale}, out, lse);
  const std::string shape = Shape(m, m.T, m.H * m.E);
  bench.Run("attention", shape, 2 * q_bytes + 2 * k_bytes, [&] {
    Tensor o, l;
    VarlenAttentionForward(q, k, v, cu_seqlens, cu, 1024, {scale}, o, l);
  });
  for (bool deterministic : {false, true}) {
    bench.Run(deterministic ? "attention_backward_deterministic" : "attention_backward", shape,
              4 * q_bytes + 4 * k_bytes, [&] {
                Tensor dq, dk, dv;
                VarlenAttentionBackward(dout, q, k, v, out, lse, cu_seqlens, cu, 1024, {scale}, dq,
                                        dk, dv, deterministic);
              });
  }
}

}  // namespace
}  // namespace finetuned::kernels

int main(int argc, char** argv) {
  namespace k = finetuned::kernels;
  const k::Bench bench(argc > 1 ? argv[1] : "");
  for (const k::Model& m : k::kModels) {
    k::RunNorm(bench, m);
    k::RunLowRankGradients(bench, m);
    k::RunGateLowRank(bench, m);
    k::RunRope(bench, m);
    k::RunSwiglu(bench, m);
    k::RunCrossEntropy(bench, m);
    k::RunNf4(bench, m);
    k::RunOptimizers(bench, m);
    k::RunRest(bench, m);
    k::RunAttention(bench, m);
  }
  return 0;
}
