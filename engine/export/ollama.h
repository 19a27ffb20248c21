#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/format/model_source.h"

namespace finetuned::exports {

// A Modelfile for `ollama create`. `from` is the FROM line's value, `adapter` the ADAPTER line's (empty: none), both
// relative to the file. The chat template becomes a Go template where its format is known (ChatML, Llama 3, Gemma,
// Mistral); else TEMPLATE is left out and Ollama guesses from the GGUF's own. Stop parameters are the model's end tokens.
absl::StatusOr<std::string> OllamaModelfile(const format::ModelSource& base, const std::string& from,
                                            const std::string& adapter);

}  // namespace finetuned::exports
