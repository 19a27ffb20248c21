#pragma once

#include <string>

#include "engine/train/run.h"
#include "engine/worker/link.h"

namespace finetuned::worker {

// Generates what the daemon asks for, piece by piece over the link, the last one with `done`; until then it listens
// for CancelSample. `device`: where the spec says auto.
void AnswerSample(Link& link, const internal::RunSample& sample, const std::string& device,
                  train::BaseModelCache* cache);

}  // namespace finetuned::worker
