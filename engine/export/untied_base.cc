#include "engine/export/untied_base.h"

#include <string>
#include <utility>
#include <vector>

namespace finetuned::exports {
namespace {

constexpr char kEmbedding[] = "model.embed_tokens.weight";
constexpr char kHead[] = "lm_head.weight";

class UntiedBase : public format::ModelSource {
 public:
  explicit UntiedBase(std::shared_ptr<const format::ModelSource> base)
      : base_(std::move(base)), config_(base_->config()), tensors_(base_->tensors()) {
    config_.tie_word_embeddings = false;
    tensors_.push_back(*base_->Find(kEmbedding));
    tensors_.back().name = kHead;
  }

  const format::ModelConfig& config() const override { return config_; }
  const std::vector<format::TensorInfo>& tensors() const override { return tensors_; }
  const format::TensorInfo* Find(const std::string& name) const override {
    return name == kHead ? &tensors_.back() : base_->Find(name);
  }
  absl::StatusOr<std::span<const uint8_t>> Raw(const format::TensorInfo& tensor) const override {
    return base_->Raw(Stored(tensor));
  }
  absl::Status ReadF32(const format::TensorInfo& tensor, std::span<float> out) const override {
    return base_->ReadF32(Stored(tensor), out);
  }
  const format::BnbWeight* Packed(const format::TensorInfo& tensor) const override {
    return base_->Packed(Stored(tensor));
  }
  absl::StatusOr<std::shared_ptr<const text::Tokenizer>> LoadTokenizer() const override {
    return base_->LoadTokenizer();
  }
  std::string chat_template() const override { return base_->chat_template(); }
  const format::TokenizerTexts* extended_tokenizer() const override { return base_->extended_tokenizer(); }
  std::string fingerprint() const override { return base_->fingerprint(); }

 private:
  const format::TensorInfo& Stored(const format::TensorInfo& tensor) const {
    return tensor.name == kHead ? *base_->Find(kEmbedding) : tensor;
  }

  const std::shared_ptr<const format::ModelSource> base_;
  format::ModelConfig config_;
  std::vector<format::TensorInfo> tensors_;
};

}  // namespace

std::shared_ptr<const format::ModelSource> Untied(std::shared_ptr<const format::ModelSource> base) {
  return std::make_shared<UntiedBase>(std::move(base));
}

}  // namespace finetuned::exports
