#pragma once

#include <cstdint>
#include <string>

namespace finetuned::job {

// The processes that train one job together, data-parallel: each takes its part of every accumulation window.
struct WorldOptions {
  int rank = 0;
  int size = 1;                // 1: alone, the rest is not looked at
  std::string master_address;  // where rank 0 listens
  int master_port = 0;
  double timeout_seconds = 600;  // a peer that is silent for longer is lost
};

// Which of a list of pieces of work one process does.
struct Share {
  int index = 0, count = 1;
  bool Holds(int64_t i) const { return i % count == index; }
  // How many of n.
  int64_t Of(int64_t n) const { return n / count + (n % count > index ? 1 : 0); }
};

}  // namespace finetuned::job
