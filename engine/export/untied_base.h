#pragma once

#include <memory>

#include "engine/format/model_source.h"

namespace finetuned::exports {

// A base whose embedding and head are one matrix, as a model that has two: lm_head.weight holds the numbers of the
// embedding, tie_word_embeddings is false. What an adapter is merged into that replaces one of them (modules_to_save).
std::shared_ptr<const format::ModelSource> Untied(std::shared_ptr<const format::ModelSource> base);

}  // namespace finetuned::exports
