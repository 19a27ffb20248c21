#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/format/bnb_checkpoint.h"
#include "engine/format/model_config.h"
#include "engine/format/tensor_info.h"
#include "engine/text/tokenizer.h"

namespace finetuned::format {

// The bytes of tokenizer.json and tokenizer_config.json.
struct TokenizerTexts {
  std::string tokenizer_json, tokenizer_config_json;
};

// A base model on disk: a GGUF file or a Hugging Face folder. Headers are read and checked when it
// is opened (bounds, shapes against the configuration, missing and duplicate names); weights are
// read on demand. Immutable, thread safe. Torch-free: the daemon uses it for planning and
// validation. Tensors are those of the architecture (see model_layout.h): an lm_head stored beside
// tied embeddings and rotary tables are left out.
class ModelSource {
 public:
  virtual ~ModelSource() = default;
  virtual const ModelConfig& config() const = 0;
  virtual const std::vector<TensorInfo>& tensors() const = 0;
  // nullptr when there is no such tensor.
  virtual const TensorInfo* Find(const std::string& name) const = 0;
  // Raw bytes as stored, valid as long as the source (memory mapped). In Llama GGUF files the rows
  // of q_proj and k_proj are in GGUF order here, unlike in ReadF32.
  virtual absl::StatusOr<std::span<const uint8_t>> Raw(const TensorInfo& tensor) const = 0;
  // Decodes the whole tensor into `out` (number of elements floats). Bit-equal to the `gguf`
  // package's dequantize for GGUF types. For Llama GGUF files the rows of q_proj and k_proj are
  // permuted back to the Hugging Face (half-split) RoPE order.
  virtual absl::Status ReadF32(const TensorInfo& tensor, std::span<float> out) const = 0;

  // A tensor of type kBnb, whose bytes alone are not its numbers. null for others.
  virtual const BnbWeight* Packed(const TensorInfo& tensor) const = 0;

  virtual absl::StatusOr<std::shared_ptr<const text::Tokenizer>> LoadTokenizer() const = 0;
  virtual std::string chat_template() const = 0;  // empty when the model has none
  // The tokenizer where it has more tokens than the base's files (extended_model.h); else null.
  virtual const TokenizerTexts* extended_tokenizer() const { return nullptr; }
  // Stable identity: sha256 over configuration, tensor names, shapes, dtypes and file sizes plus
  // the first and last 64 KiB of each weight file; hex.
  virtual std::string fingerprint() const = 0;
};

// `path` is a .gguf file or a folder with config.json. NOT_FOUND, INVALID_ARGUMENT (file, tensor,
// expected, found) or UNIMPLEMENTED (architecture not supported; lists the supported ones).
absl::StatusOr<std::shared_ptr<const ModelSource>> OpenModel(const std::string& path);

}  // namespace finetuned::format
