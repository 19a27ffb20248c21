// Recorded decode steps: on a GPU a step is some hundred short kernels, which a graph starts at once.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>

namespace finetuned::generate {

// Not thread safe. `body` must use the same memory each time, must not wait for the device, and must have run once
// with the largest key before it is recorded, so that its buffers exist: nothing can be allocated meanwhile.
class DecodeGraphs {
 public:
  DecodeGraphs();
  ~DecodeGraphs();

  // Whether Run records and replays; false on builds and devices without CUDA.
  static bool Available(bool cuda);

  // Runs body, the largest there is, where others will be recorded: what libraries allocate for a stream is there then.
  void Warm(const std::function<void()>& body);
  // The first call with a key records body and runs it, later ones run the record. REQUIRES: Warm before.
  void Run(int64_t key, const std::function<void()>& body);

 private:
  struct Recorded;
  std::map<int64_t, std::unique_ptr<Recorded>> graphs_;
};

}  // namespace finetuned::generate
