// Copies from global to shared memory that run while a thread goes on (sm_80 and newer).
#pragma once

#include <cstdint>

namespace finetuned::kernels {

// 16 bytes; zeros where not valid, `from` is then not read. Both addresses are multiples of 16.
__device__ __forceinline__ void CopyAsync16(void* to, const void* from, bool valid) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from),
               "r"(valid ? 16 : 0));
}
__device__ __forceinline__ void CommitAsync() { asm volatile("cp.async.commit_group;"); }
// Until at most kPending of the thread's latest groups are on their way; reads of what the others brought stay behind it.
template <int kPending>
__device__ __forceinline__ void WaitAsync() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace finetuned::kernels
