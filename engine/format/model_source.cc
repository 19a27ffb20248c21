#include "engine/format/model_source.h"

#include <filesystem>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/format/gguf_model.h"
#include "engine/format/hf_folder.h"
#include "engine/format/mapped_file.h"

namespace finetuned::format {

absl::StatusOr<std::shared_ptr<const ModelSource>> OpenModel(const std::string& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) {
    return absl::NotFoundError(absl::StrCat(
        DisplayName(path), ": no such model; expected a .gguf file or a folder with config.json"));
  }
  return std::filesystem::is_directory(status) ? OpenHfFolder(path) : OpenGgufModel(path);
}

}  // namespace finetuned::format
