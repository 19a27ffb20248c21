#include "engine/plan/host_memory.h"

#include <fstream>
#include <string>

namespace finetuned::plan {

int64_t AvailableHostMemory() {
  std::ifstream in("/proc/meminfo");
  std::string name, rest;
  for (int64_t kilobytes = 0; in >> name >> kilobytes; std::getline(in, rest)) {
    if (name == "MemAvailable:") return kilobytes * 1024;
  }
  return 0;
}

}  // namespace finetuned::plan
