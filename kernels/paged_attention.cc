#include "kernels/paged_attention.h"

#include <ATen/record_function.h>

#include "kernels/dispatch.h"
#include "kernels/paged_attention_params.h"

namespace finetuned::kernels {
namespace {

// Elements from row to row of a [T, heads, E] tensor whose token stride is free.
int64_t CheckHeadRows(const char* op, const char* name, const at::Tensor& x, at::IntArrayRef shape,
                      const at::Tensor& cache) {
  TORCH_CHECK(x.defined() && x.sizes() == shape, op, ": ", name, " has shape ", x.sizes(),
              ", expected ", shape);
  TORCH_CHECK(x.scalar_type() == cache.scalar_type() && x.device() == cache.device(), op, ": ",
              name, " is ", x.scalar_type(), " on ", x.device(), ", the cache is ",
              cache.scalar_type(), " on ", cache.device());
  const int64_t row = shape[1] * shape[2];
  TORCH_CHECK(x.stride(2) == 1 && (shape[1] == 1 || x.stride(1) == shape[2]) &&
                  (shape[0] <= 1 || x.stride(0) >= row),
              op, ": ", name, " has strides ", x.strides(), ", expected [>= ", row, ", ", shape[2],
              ", 1]");
  return shape[0] <= 1 ? row : x.stride(0);
}

PagedIndex CheckIndex(const char* op, const PagedRows& rows, int64_t count,
                      const PagedCache& cache) {
  const at::Device device = cache.k_NKPE.device();
  TORCH_CHECK(cache.k_NKPE.dim() == 4 && cache.k_NKPE.size(2) == kCacheBlock, op,
              ": the cache has shape ", cache.k_NKPE.sizes(), ", expected [blocks, heads, ",
              kCacheBlock, ", head size]");
  CheckTensor(op, "k cache", cache.k_NKPE, cache.k_NKPE.sizes(), cache.k_NKPE.scalar_type(), device);
  CheckTensor(op, "v cache", cache.v_NKPE, cache.k_NKPE.sizes(), cache.k_NKPE.scalar_type(), device);
  TORCH_CHECK(rows.tables_SM.dim() == 2, op, ": tables have shape ", rows.tables_SM.sizes());
  CheckTensor(op, "tables", rows.tables_SM, rows.tables_SM.sizes(), at::kInt, device);
  CheckTensor(op, "slots", rows.slots_T, {count}, at::kInt, device);
  CheckTensor(op, "positions", rows.positions_S,
              {rows.rows_have_positions ? count : rows.tables_SM.size(0)}, at::kInt, device);
  return {rows.slots_T.const_data_ptr<int32_t>(), rows.positions_S.const_data_ptr<int32_t>(),
          rows.tables_SM.const_data_ptr<int32_t>(), rows.tables_SM.size(1),
          rows.rows_have_positions};
}

}  // namespace

void WritePaged(const at::Tensor& k_TKE, const at::Tensor& v_TKE, const PagedRows& rows,
                PagedCache& cache) {
  const char* op = "WritePaged";
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  const Dtype dtype = DtypeOf(op, k_TKE);
  const int64_t T = k_TKE.size(0);
  const PagedIndex index = CheckIndex(op, rows, T, cache);
  const int64_t K = cache.k_NKPE.size(1), E = cache.k_NKPE.size(3);
  WritePagedParams p = {};
  p.k_stride = CheckHeadRows(op, "k", k_TKE, {T, K, E}, cache.k_NKPE);
  p.v_stride = CheckHeadRows(op, "v", v_TKE, {T, K, E}, cache.k_NKPE);
  p.k = k_TKE.data_ptr();
  p.v = v_TKE.data_ptr();
  p.k_cache = cache.k_NKPE.data_ptr();
  p.v_cache = cache.v_NKPE.data_ptr();
  p.index = index;
  p.T = T;
  p.K = K;
  p.E = E;
  if (T == 0) return;
  if (k_TKE.is_cuda()) {
    OnCuda(op, k_TKE, [&](auto stream) { WritePagedCuda(p, dtype, stream); });
  } else {
    WritePagedCpu(p, dtype);
  }
}

void PagedAttention(const at::Tensor& q_BHE, const PagedCache& cache, const PagedRows& rows,
                    const ScoreOptions& scores, int64_t splits, const at::Tensor& scratch, at::Tensor& out_BHE) {
  const char* op = "PagedAttention";
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  const Dtype dtype = DtypeOf(op, q_BHE);
  TORCH_CHECK(q_BHE.dim() == 3, op, ": q has shape ", q_BHE.sizes(), ", expected [B, heads, size]");
  const int64_t B = q_BHE.size(0), H = q_BHE.size(1);
  PagedAttentionParams p = {};
  p.index = CheckIndex(op, rows, B, cache);
  const int64_t K = cache.k_NKPE.size(1), E = cache.k_NKPE.size(3);
  TORCH_CHECK(K > 0 && H % K == 0, op, ": ", H, " query heads are not a multiple of ", K,
              " key/value heads");
  p.q_stride = CheckHeadRows(op, "q", q_BHE, {B, H, E}, cache.k_NKPE);
  p.out_stride = CheckHeadRows(op, "out", out_BHE, {B, H, E}, cache.k_NKPE);
  p.q = q_BHE.data_ptr();
  p.k_cache = cache.k_NKPE.data_ptr();
  p.v_cache = cache.v_NKPE.data_ptr();
  p.out = out_BHE.data_ptr();
  p.B = B;
  p.H = H;
  p.K = K;
  p.E = E;
  p.splits = splits;
  p.scale = static_cast<float>(scores.scale);
  p.softcap = static_cast<float>(scores.softcap);
  p.window = scores.window;
  if (B == 0) return;
  if (!q_BHE.is_cuda()) return PagedAttentionCpu(p, dtype);
  TORCH_CHECK(E == 16 || E == 32 || E == 64 || E == 96 || E == 128 || E == 256, op, ": head size ",
              E, " is not supported (16, 32, 64, 96, 128, 256)");
  const int64_t needed = PagedAttentionScratch(B, H, E, splits);
  TORCH_CHECK(scratch.defined() && scratch.numel() >= needed && scratch.is_contiguous() &&
                  scratch.scalar_type() == at::kFloat && scratch.device() == q_BHE.device(),
              op, ": scratch must hold ", needed, " float32 on ", q_BHE.device());
  p.partial = scratch.data_ptr<float>();
  OnCuda(op, q_BHE, [&](auto stream) { PagedAttentionCuda(p, dtype, stream); });
}

int64_t PagedAttentionScratch(int64_t rows, int64_t heads, int64_t head_size, int64_t splits) {
  return rows * heads * splits * (head_size + 2);
}

}  // namespace finetuned::kernels
