#pragma once

// What a test may change of the fake library's GPU; reached by dlsym(handle, "FakeNvmlGpu").
struct FakeGpu {
  bool driver_loaded = true;
  bool has_energy = true;
  unsigned long long energy_mj = 1500000;
  unsigned long long pending_xid = 0;  // told once
  unsigned long long process_bytes = 3ull << 30;  // of process 4242; process 7 is not told
};
extern "C" FakeGpu* FakeNvmlGpu();
