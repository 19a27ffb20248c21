#pragma once

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "engine/format/model_source.h"
#include "engine/format/tensor_info.h"

namespace finetuned::exports {

using HfTexts = std::map<std::string, std::string>;  // file name -> content

// config.json, generation_config.json and tokenizer files of a model folder whose weights have this type; see
// WriteHfFolder.
absl::StatusOr<HfTexts> HfTextsOf(const format::ModelSource& base, const std::string& base_path, format::DType dtype);

}  // namespace finetuned::exports
