// cuBLASLt takes the matrix that is added apart from the result.
#include <ATen/Context.h>
#include <ATen/cuda/CUDAContext.h>
#include <cublasLt.h>

#include <array>
#include <bit>
#include <map>
#include <mutex>

#include "kernels/dispatch.h"
#include "kernels/product_add_internal.h"

namespace finetuned::kernels {
namespace {

void Check(cublasStatus_t status, const char* what) {
  TORCH_CHECK(status == CUBLAS_STATUS_SUCCESS, "ProductAdd: ", what, ": cuBLASLt error ", static_cast<int>(status));
}

// Largest power of two up to 256 that divides an address.
uint32_t Alignment(const void* p) {
  const auto bits = reinterpret_cast<uintptr_t>(p) | 256;
  return uint32_t{1} << std::countr_zero(bits);
}

struct Operand {
  const void* data;
  int64_t rows, columns, stride;  // in memory a row follows a row
  uint32_t alignment;

  explicit Operand(const at::Tensor& t)
      : data(t.const_data_ptr()), rows(t.size(0)), columns(t.size(1)), stride(t.stride(0)), alignment(Alignment(data)) {}
};

// Row-major matrices are column-major ones transposed.
struct Layout {
  cublasLtMatrixLayout_t handle = nullptr;
  explicit Layout(const Operand& o) {
    Check(cublasLtMatrixLayoutCreate(&handle, CUDA_R_16BF, static_cast<uint64_t>(o.columns),
                                     static_cast<uint64_t>(o.rows), o.stride), "a layout");
  }
  ~Layout() { cublasLtMatrixLayoutDestroy(handle); }
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;
};

struct Description {
  cublasLtMatmulDesc_t handle = nullptr;
  Description() {
    Check(cublasLtMatmulDescCreate(&handle, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a description");
    const cublasOperation_t transposed = CUBLAS_OP_T;  // of W; x is read as it lies
    Check(cublasLtMatmulDescSetAttribute(handle, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed), "W^T");
  }
  ~Description() { cublasLtMatmulDescDestroy(handle); }
  Description(const Description&) = delete;
  Description& operator=(const Description&) = delete;
};

struct Preference {
  cublasLtMatmulPreference_t handle = nullptr;
  Preference(const std::array<Operand, 4>& operands, size_t workspace) {
    Check(cublasLtMatmulPreferenceCreate(&handle), "a preference");
    Set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace);
    // Sums of parts in float32 in workspace: their order is fixed.
    Set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    constexpr std::array kAlignments = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    for (size_t i = 0; i < operands.size(); ++i) Set(kAlignments[i], operands[i].alignment);
  }
  ~Preference() { cublasLtMatmulPreferenceDestroy(handle); }
  Preference(const Preference&) = delete;
  Preference& operator=(const Preference&) = delete;

  template <typename T>
  void Set(cublasLtMatmulPreferenceAttributes_t attribute, T value) {
    Check(cublasLtMatmulPreferenceSetAttribute(handle, attribute, &value, sizeof value), "a preference");
  }
};

// What the choice of an algorithm depends on.
using Key = std::array<int64_t, 12>;

Key KeyOf(const std::array<Operand, 4>& operands, int device) {
  const Operand &w = operands[0], &x = operands[1];
  Key key = {device, x.rows, w.rows, w.columns};
  for (size_t i = 0; i < operands.size(); ++i) {
    key[4 + i] = operands[i].stride;
    key[8 + i] = operands[i].alignment;
  }
  return key;
}

class Algorithms {
 public:
  template <typename Choose>
  cublasLtMatmulAlgo_t Of(const Key& key, const Choose& choose) {
    const std::lock_guard lock(mutex_);
    const auto found = known_.find(key);
    if (found != known_.end()) return found->second;
    constexpr size_t kMost = 4096;  // batches of every length come by
    if (known_.size() == kMost) known_.clear();
    return known_[key] = choose();
  }

 private:
  std::mutex mutex_;
  std::map<Key, cublasLtMatmulAlgo_t> known_;
};

}  // namespace

void ProductAddCublas(const at::Tensor& x_TI, const at::Tensor& w_OI, const at::Tensor& addend_TO, at::Tensor& y_TO) {
  static Algorithms algorithms;
  const std::array<Operand, 4> operands = {Operand(w_OI), Operand(x_TI), Operand(addend_TO), Operand(y_TO)};
  OnCuda("ProductAdd", x_TI, [&](auto stream) {
    const Layout w(operands[0]), x(operands[1]), addend(operands[2]), y(operands[3]);
    const Description product;
    const cublasLtHandle_t handle = at::cuda::getCurrentCUDABlasLtHandle();
    const size_t workspace = at::cuda::getCUDABlasLtWorkspaceSize();
    const cublasLtMatmulAlgo_t algorithm = algorithms.Of(KeyOf(operands, x_TI.get_device()), [&] {
      const Preference preference(operands, workspace);
      cublasLtMatmulHeuristicResult_t best{};
      int found = 0;
      Check(cublasLtMatmulAlgoGetHeuristic(handle, product.handle, w.handle, x.handle, addend.handle, y.handle,
                                           preference.handle, 1, &best, &found), "the choice of an algorithm");
      TORCH_CHECK(found > 0, "ProductAdd: cuBLASLt has no algorithm for x ", x_TI.sizes(), " and w ", w_OI.sizes());
      return best.algo;
    });
    const float one = 1;
    Check(cublasLtMatmul(handle, product.handle, &one, operands[0].data, w.handle, operands[1].data, x.handle, &one,
                         operands[2].data, addend.handle, y_TO.data_ptr(), y.handle, &algorithm,
                         at::cuda::getCUDABlasLtWorkspace(), workspace, stream), "the product");
  });
}

}  // namespace finetuned::kernels
