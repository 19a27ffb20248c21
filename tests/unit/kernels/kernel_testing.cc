#include "tests/unit/kernels/kernel_testing.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace finetuned::kernels {

at::Tensor Normal(at::IntArrayRef shape, uint64_t seed, at::ScalarType dtype) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  return at::randn(shape, generator, at::kDouble).to(dtype).to(at::kDouble);
}

at::Tensor Poisoned(at::IntArrayRef shape, at::TensorOptions options) {
  const auto type = c10::typeMetaToScalarType(options.dtype());
  return at::full(shape, type == at::kByte ? 255.0 : std::numeric_limits<double>::quiet_NaN(),
                  options);
}

namespace {

double MaxAbs(const at::Tensor& x) { return x.numel() == 0 ? 0 : x.abs().max().item<double>(); }

double MaxError(const at::Tensor& a, const at::Tensor& truth) {
  const at::Tensor difference =
      a.detach().to(at::kCPU).to(at::kDouble) - truth.detach().to(at::kCPU).to(at::kDouble);
  const double error = MaxAbs(difference);
  return std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
}

}  // namespace

double RelativeError(const at::Tensor& a, const at::Tensor& b) {
  return MaxError(a, b) / std::max(MaxAbs(b.detach().to(at::kCPU).to(at::kDouble)), 1e-30);
}

void ExpectWithin(const std::string& what, const at::Tensor& ours, const at::Tensor& plain,
                  const at::Tensor& truth, double floor) {
  ASSERT_EQ(ours.sizes(), truth.sizes()) << what;
  const double error = RelativeError(ours, truth), loss = RelativeError(plain, truth);
  EXPECT_LE(error, 2 * loss + floor)
      << what << ": error " << error << ", the plain computation loses " << loss << ", floor "
      << floor << ", " << ours.scalar_type() << ", shape " << ours.sizes();
}

double Floor(at::ScalarType dtype) { return dtype == at::kBFloat16 ? 1.0 / 512 : 2e-6; }

bool SameBits(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type()) return false;
  const at::Tensor x = a.cpu().contiguous(), y = b.cpu().contiguous();
  return std::memcmp(x.data_ptr(), y.data_ptr(), x.nbytes()) == 0;
}

at::Tensor RmsNormOracle(const at::Tensor& x_TD, const at::Tensor& w_D, double eps) {
  const bool is_double = x_TD.scalar_type() == at::kDouble;
  const at::Tensor x = is_double ? x_TD : x_TD.to(at::kFloat);
  const at::Tensor normalized = x * at::rsqrt(x.pow(2).mean(-1, true) + eps);
  return w_D * normalized.to(x_TD.scalar_type());
}

at::Tensor RopeOracle(const at::Tensor& x_THE, const at::Tensor& position_ids_T,
                      const at::Tensor& inv_freq, int sign) {
  const at::Tensor angles =
      position_ids_T.to(at::kFloat).unsqueeze(1) * inv_freq.unsqueeze(0);  // [T, E/2]
  const at::Tensor both = at::cat({angles, angles}, 1).unsqueeze(1);
  const at::Tensor cosine = both.cos().to(x_THE.scalar_type());
  const at::Tensor sine = (both.sin() * sign).to(x_THE.scalar_type());
  const auto halves = x_THE.chunk(2, 2);
  return x_THE * cosine + at::cat({-halves[1], halves[0]}, 2) * sine;
}

at::Tensor SwigluOracle(const at::Tensor& gate_up_T2F) {
  const auto halves = gate_up_T2F.chunk(2, 1);
  return at::silu(halves[0]) * halves[1];
}

at::Tensor AttentionOracle(const at::Tensor& q_THE, const at::Tensor& k_TKE,
                           const at::Tensor& v_TKE, const std::vector<int32_t>& cu_seqlens,
                           double scale) {
  const int64_t group = q_THE.size(1) / k_TKE.size(1);
  std::vector<at::Tensor> outputs;
  for (size_t n = 0; n + 1 < cu_seqlens.size(); ++n) {
    const int64_t start = cu_seqlens[n], L = cu_seqlens[n + 1] - start;
    const auto rows = [&](const at::Tensor& x) { return x.narrow(0, start, L).transpose(0, 1); };
    const at::Tensor k = rows(k_TKE).repeat_interleave(group, 0);
    const at::Tensor v = rows(v_TKE).repeat_interleave(group, 0);
    const at::Tensor hidden = at::ones({L, L}, q_THE.options().dtype(at::kBool)).triu(1);
    const at::Tensor scores = at::matmul(rows(q_THE), k.transpose(1, 2)) * scale;
    const at::Tensor p =
        scores.masked_fill(hidden, -std::numeric_limits<double>::infinity()).softmax(2);
    outputs.push_back(at::matmul(p, v).transpose(0, 1));
  }
  return at::cat(outputs, 0);
}

at::Tensor LlamaInvFreq(int64_t E) {
  return at::pow(10000.0, at::arange(0, E, 2, at::kFloat) / static_cast<double>(E)).reciprocal();
}

at::Tensor Positions(const std::vector<int32_t>& cu_seqlens) {
  std::vector<at::Tensor> parts;
  for (size_t n = 0; n + 1 < cu_seqlens.size(); ++n) {
    parts.push_back(at::arange(cu_seqlens[n + 1] - cu_seqlens[n], at::kInt));
  }
  return at::cat(parts);
}

}  // namespace finetuned::kernels
