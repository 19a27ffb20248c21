#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/format/mapped_file.h"
#include "engine/format/model_source.h"

namespace finetuned::format {

using TokenizerLoader = std::function<absl::StatusOr<std::shared_ptr<const text::Tokenizer>>()>;

// What a file format yields about a model; StoredModel does the rest.
struct ModelParts {
  std::string name;  // file or folder in messages
  ModelConfig config;
  std::vector<TensorInfo> tensors;              // as found
  std::vector<std::span<const uint8_t>> bytes;  // of each tensor
  std::map<std::string, BnbWeight> packed;      // those of type kBnb, by name
  // Rows of q_proj and k_proj are interleaved as llama.cpp stores them.
  bool interleaved_rope = false;
  std::string chat_template;
  TokenizerLoader load_tokenizer;
  std::vector<std::shared_ptr<const MappedFile>> files;  // weight files, sorted by name
};

class StoredModel : public ModelSource {
 public:
  // Checks the tensors against the configuration (MatchTensors) and takes the fingerprint.
  static absl::StatusOr<std::shared_ptr<const ModelSource>> Create(ModelParts parts);

  const ModelConfig& config() const override { return parts_.config; }
  const std::vector<TensorInfo>& tensors() const override { return parts_.tensors; }
  const TensorInfo* Find(const std::string& name) const override;
  absl::StatusOr<std::span<const uint8_t>> Raw(const TensorInfo& tensor) const override;
  absl::Status ReadF32(const TensorInfo& tensor, std::span<float> out) const override;
  const BnbWeight* Packed(const TensorInfo& tensor) const override;
  absl::StatusOr<std::shared_ptr<const text::Tokenizer>> LoadTokenizer() const override {
    return parts_.load_tokenizer();
  }
  std::string chat_template() const override { return parts_.chat_template; }
  std::string fingerprint() const override { return fingerprint_; }

 private:
  explicit StoredModel(ModelParts parts);
  // Heads whose rows are interleaved, 0 for tensors stored in Hugging Face order.
  int64_t InterleavedHeads(const std::string& name) const;

  ModelParts parts_;
  std::unordered_map<std::string, size_t> index_;
  std::string fingerprint_;
};

// See ModelSource::fingerprint.
std::string Fingerprint(const ModelConfig& config, const std::vector<TensorInfo>& tensors,
                        const std::vector<std::shared_ptr<const MappedFile>>& files);

}  // namespace finetuned::format
