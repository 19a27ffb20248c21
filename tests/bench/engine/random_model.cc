#include "tests/bench/engine/random_model.h"

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "engine/plan/shapes.h"

namespace finetuned::bench {

format::ModelConfig Shape(const std::string& name) {
  auto config = plan::FindShape(name);
  if (!config.ok()) {
    std::fprintf(stderr, "%s\n", std::string(config.status().message()).c_str());
    std::exit(64);
  }
  config->max_position_embeddings = 1 << 20;
  return *std::move(config);
}

}  // namespace finetuned::bench
