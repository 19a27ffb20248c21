// Packed causal attention by cuDNN's graph API: tokens x heads x head size with ragged offsets, grouped queries,
// results written where the caller wants them. On an H100 about twice as fast as LibTorch's flash attention.
// Legend: T tokens, N documents, H query heads, K key/value heads, E head size, S longest document.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/cudnn/Handle.h>
#include <cudnn_frontend.h>

#include <algorithm>
#include <array>
#include <bit>
#include <map>
#include <memory>
#include <unordered_map>

#include "kernels/varlen_attention_internal.h"

namespace finetuned::kernels {
namespace {

namespace fe = cudnn_frontend;

enum Uid : int64_t { kQ = 1, kK, kV, kOut, kStats, kDout, kDq, kDk, kDv, kSeqlen, kRagged = 100 };

// Below this the products are small and flash attention is as fast.
constexpr int64_t kShortestDocument = 1024;  // the longest of the batch
constexpr int64_t kShortestMean = 512;

int64_t RoundUpToPowerOf2(int64_t n) {
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(n)));
}

// The backward's workspace grows with the longest document: far apart, powers of two would waste gigabytes.
int64_t RoundUpLength(int64_t n) {
  constexpr int64_t kStep = 8192;
  return n <= 2 * kStep ? RoundUpToPowerOf2(n) : (n + kStep - 1) / kStep * kStep;
}

// What a compiled graph depends on. Documents and lengths are rounded up, so a run sees few classes.
struct Class {
  int64_t N, H, K, E, S;
  std::array<int64_t, 8> row_strides;  // q k v out dout dq dk dv; 0: absent
  double scale;
  bool backward;
  auto operator<=>(const Class&) const = default;
};

void Check(fe::error_t status, const char* what) {
  TORCH_CHECK(status.is_good(), "cuDNN attention, ", what, ": ", status.get_message());
}

using Tensor = std::shared_ptr<fe::graph::Tensor_attributes>;

// int32 per document.
Tensor Counts(fe::graph::Graph& graph, int64_t uid, int64_t count) {
  return graph.tensor(fe::graph::Tensor_attributes()
                          .set_name("counts_" + std::to_string(uid))
                          .set_uid(uid)
                          .set_dim({count, 1, 1, 1})
                          .set_stride({1, 1, 1, 1})
                          .set_data_type(fe::DataType_t::INT32));
}

// Makes `t` a view [N, heads, S, width] of the rows of a packed matrix.
void Pack(fe::graph::Tensor_attributes& t, fe::graph::Graph& graph, const Class& c, Uid uid,
          int64_t heads, int64_t width, int64_t row_stride, fe::DataType_t type) {
  t.set_uid(uid)
      .set_name("tensor_" + std::to_string(uid))
      .set_dim({c.N, heads, c.S, width})
      .set_stride({c.S * row_stride, width, row_stride, 1})
      .set_ragged_offset(Counts(graph, kRagged + uid, c.N + 1))
      .set_data_type(type);
}

Tensor Packed(fe::graph::Graph& graph, const Class& c, Uid uid, int64_t heads, int64_t width,
              int64_t row_stride, fe::DataType_t type) {
  fe::graph::Tensor_attributes t;
  Pack(t, graph, c, uid, heads, width, row_stride, type);
  return graph.tensor(t);
}

std::shared_ptr<fe::graph::Graph> Build(const Class& c) {
  auto graph = std::make_shared<fe::graph::Graph>();
  constexpr auto kBf16 = fe::DataType_t::BFLOAT16, kF32 = fe::DataType_t::FLOAT;
  graph->set_io_data_type(kBf16).set_intermediate_data_type(kF32).set_compute_data_type(kF32);
  const auto& s = c.row_strides;
  auto q = Packed(*graph, c, kQ, c.H, c.E, s[0], kBf16);
  auto k = Packed(*graph, c, kK, c.K, c.E, s[1], kBf16);
  auto v = Packed(*graph, c, kV, c.K, c.E, s[2], kBf16);
  auto lengths_q = Counts(*graph, kSeqlen, c.N), lengths_kv = Counts(*graph, kSeqlen + 1, c.N);
  if (!c.backward) {
    const auto options = fe::graph::SDPA_attributes()
                             .set_name("attention")
                             .set_generate_stats(true)
                             .set_attn_scale(static_cast<float>(c.scale))
                             .set_causal_mask(true)
                             .set_padding_mask(true)
                             .set_seq_len_q(lengths_q)
                             .set_seq_len_kv(lengths_kv);
    auto [out, stats] = graph->sdpa(q, k, v, options);
    Pack(out->set_output(true), *graph, c, kOut, c.H, c.E, s[3], kBf16);
    Pack(stats->set_output(true), *graph, c, kStats, c.H, 1, c.H, kF32);
  } else {
    auto out = Packed(*graph, c, kOut, c.H, c.E, s[3], kBf16);
    auto dout = Packed(*graph, c, kDout, c.H, c.E, s[4], kBf16);
    auto stats = Packed(*graph, c, kStats, c.H, 1, c.H, kF32);
    const auto options = fe::graph::SDPA_backward_attributes()
                             .set_name("attention_backward")
                             .set_attn_scale(static_cast<float>(c.scale))
                             .set_causal_mask(true)
                             .set_padding_mask(true)
                             .set_seq_len_q(lengths_q)
                             .set_seq_len_kv(lengths_kv);
    auto [dq, dk, dv] = graph->sdpa_backward(q, k, v, out, dout, stats, options);
    Pack(dq->set_output(true), *graph, c, kDq, c.H, c.E, s[5], kBf16);
    Pack(dk->set_output(true), *graph, c, kDk, c.K, c.E, s[6], kBf16);
    Pack(dv->set_output(true), *graph, c, kDv, c.K, c.E, s[7], kBf16);
  }
  cudnnHandle_t handle = at::native::getCudnnHandle();
  Check(graph->validate(), "description");
  Check(graph->build_operation_graph(handle), "operation graph");
  Check(graph->create_execution_plans({fe::HeurMode_t::A}), "plans");
  Check(graph->check_support(handle), "support");
  Check(graph->build_plans(handle), "compilation");
  return graph;
}

// A graph, on the device the factors [R, 1] that make offsets of cu_seqlens, and what they made of the last batch:
// its layers ask with the same tensor, which is kept, so that no other can take its place.
struct Compiled {
  std::shared_ptr<fe::graph::Graph> graph;
  at::Tensor factors_R1;
  at::Tensor cu_seqlens, offsets, lengths;
};

// Only the thread that trains runs attention on a GPU.
Compiled& Find(const Class& c, const at::Tensor& cu_seqlens) {
  static std::map<Class, Compiled> compiled;
  Compiled& found = compiled[c];
  if (found.graph == nullptr) {
    std::vector<int64_t> factors(c.row_strides.begin(), c.row_strides.end());
    factors.push_back(c.H);  // of the statistics
    found.factors_R1 = at::tensor(factors).to(cu_seqlens.options()).unsqueeze(1);
    found.graph = Build(c);
  }
  return found;
}

Class ClassOf(const VarlenAttentionInputs& in, int64_t max_seqlen, bool backward) {
  Class c = {};
  c.N = RoundUpToPowerOf2(static_cast<int64_t>(in.cu_seqlens.size()) - 1);
  c.H = in.q_THE.size(1);
  c.K = in.k_TKE.size(1);
  c.E = in.q_THE.size(2);
  c.S = RoundUpLength(max_seqlen);
  c.scale = in.scores.scale;
  c.backward = backward;
  c.row_strides = {in.q_THE.stride(0), in.k_TKE.stride(0), in.v_TKE.stride(0)};
  return c;
}

// cu_seqlens of N documents: those added by rounding are empty.
at::Tensor Padded(const at::Tensor& cu_seqlens, int64_t N) {
  const int64_t given = cu_seqlens.size(0);
  if (given == N + 1) return cu_seqlens;
  at::Tensor all = at::empty({N + 1}, cu_seqlens.options());
  all.narrow(0, 0, given).copy_(cu_seqlens);
  all.narrow(0, given, N + 1 - given).copy_(cu_seqlens.narrow(0, given - 1, 1).expand({N + 1 - given}));
  return all;
}

void PlaceDocuments(const Class& c, const at::Tensor& cu_seqlens, Compiled& compiled) {
  if (compiled.cu_seqlens.is_same(cu_seqlens)) return;
  const at::Tensor cu = Padded(cu_seqlens, c.N);
  compiled.offsets = cu * compiled.factors_R1;
  compiled.lengths = at::diff(cu);
  compiled.cu_seqlens = cu_seqlens;
}

// Collects what a graph reads and writes, and runs it.
class Call {
 public:
  Call(const Class& c, const at::Tensor& cu_seqlens) : compiled_(Find(c, cu_seqlens)) {
    PlaceDocuments(c, cu_seqlens, compiled_);
    pointers_[kSeqlen] = pointers_[kSeqlen + 1] = compiled_.lengths.data_ptr();
  }
  // `factor`: its place in Class::row_strides; the statistics come last.
  void Bind(Uid uid, const at::Tensor& t, int64_t factor) {
    pointers_[uid] = t.data_ptr();
    const at::Tensor& offsets = compiled_.offsets;
    pointers_[kRagged + uid] = offsets.data_ptr<int32_t>() + factor * offsets.stride(0);
  }
  void Run() {
    int64_t bytes = 0;
    Check(compiled_.graph->get_workspace_size(bytes), "workspace");
    const at::Tensor workspace = at::empty({bytes}, compiled_.offsets.options().dtype(at::kByte));
    Check(compiled_.graph->execute(at::native::getCudnnHandle(), pointers_, workspace.data_ptr()),
          "execution");
  }

 private:
  Compiled& compiled_;
  std::unordered_map<int64_t, void*> pointers_;
};

constexpr int64_t kStatsFactor = 8;

}  // namespace

bool CudnnAttentionFits(const VarlenAttentionInputs& in, int64_t max_seqlen) {
  if (in.scores.window > 0 || in.scores.softcap > 0) return false;
  const at::Tensor& q = in.q_THE;
  if (!q.is_cuda() || q.scalar_type() != at::kBFloat16) return false;
  const int64_t T = q.size(0), E = q.size(2), documents = static_cast<int64_t>(in.cu_seqlens.size()) - 1;
  if (E % 8 != 0 || E > 128 || max_seqlen < kShortestDocument || T / documents < kShortestMean) return false;
  // Offsets are 32-bit. All rows are those of fused q, k, v, or as long as q, with an adapter's few columns behind.
  if (T * std::max({q.stride(0), in.k_TKE.stride(0), q.size(1) * E}) * 2 >= int64_t{1} << 31) return false;
  return at::cuda::getDeviceProperties(q.device().index())->major >= 9;
}

void CudnnAttentionForward(const VarlenAttentionInputs& in, const at::Tensor& cu_seqlens,
                           int64_t max_seqlen, at::Tensor& out_THE, at::Tensor& lse_HT) {
  Class c = ClassOf(in, max_seqlen, /*backward=*/false);
  c.row_strides[3] = out_THE.stride(0);
  Call call(c, cu_seqlens);
  call.Bind(kQ, in.q_THE, 0);
  call.Bind(kK, in.k_TKE, 1);
  call.Bind(kV, in.v_TKE, 2);
  call.Bind(kOut, out_THE, 3);
  call.Bind(kStats, lse_HT, kStatsFactor);
  call.Run();
}

void CudnnAttentionBackward(const VarlenAttentionInputs& in, const at::Tensor& cu_seqlens,
                            int64_t max_seqlen, const at::Tensor& dout_THE,
                            const at::Tensor& out_THE, const at::Tensor& lse_HT, at::Tensor& dq_THE,
                            at::Tensor& dk_TKE, at::Tensor& dv_TKE) {
  Class c = ClassOf(in, max_seqlen, /*backward=*/true);
  const at::Tensor* more[] = {&out_THE, &dout_THE, &dq_THE, &dk_TKE, &dv_TKE};
  for (int i = 0; i < 5; ++i) c.row_strides[3 + i] = more[i]->stride(0);
  Call call(c, cu_seqlens);
  const std::pair<Uid, const at::Tensor*> tensors[] = {
      {kQ, &in.q_THE}, {kK, &in.k_TKE}, {kV, &in.v_TKE}, {kOut, &out_THE}, {kDout, &dout_THE},
      {kDq, &dq_THE},  {kDk, &dk_TKE},  {kDv, &dv_TKE},  {kStats, &lse_HT}};
  for (int64_t i = 0; i < 9; ++i) call.Bind(tensors[i].first, *tensors[i].second, i);
  call.Run();
}

}  // namespace finetuned::kernels
