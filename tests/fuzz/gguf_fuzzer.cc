// A GGUF file: header, metadata under every type, configuration, vocabulary, tokenizer and weights.
#include <string>
#include <vector>

#include "engine/format/dequantize.h"
#include "engine/format/gguf_config.h"
#include "engine/format/gguf_reader.h"
#include "engine/format/gguf_tensor_names.h"
#include "engine/format/model_layout.h"
#include "fuzzing.h"

namespace {

using namespace finetuned;

constexpr const char* kKeys[] = {"general.architecture",       "general.alignment",      "llama.block_count",
                                 "llama.rope.freq_base",       "tokenizer.ggml.tokens",  "tokenizer.ggml.scores",
                                 "tokenizer.ggml.token_type",  "tokenizer.ggml.add_bos_token",
                                 "tokenizer.chat_template"};

void ReadUnderEveryType(const format::GgufMetadata& metadata) {
  for (const char* key : kKeys) {
    (void)metadata.Int(key);
    (void)metadata.Number(key);
    (void)metadata.Bool(key);
    (void)metadata.String(key);
    (void)metadata.Strings(key);
    (void)metadata.Floats(key);
    (void)metadata.Ints(key);
  }
}

void DecodeWeights(const format::GgufLayout& gguf, std::span<const uint8_t> file) {
  for (const format::GgufTensor& tensor : gguf.tensors) {
    fuzz::Require(tensor.offset >= 0 && tensor.info.bytes >= 0 &&
                      static_cast<uint64_t>(tensor.offset) + tensor.info.bytes <= file.size(),
                  "a tensor lies in the file");
    if (!format::IsWeightType(tensor.info.dtype)) continue;
    std::vector<float> numbers(*format::ElementCount(tensor.info.shape));
    fuzz::Require(format::DecodeToF32(tensor.info.dtype, file.subspan(tensor.offset, tensor.info.bytes), numbers).ok(),
                  "a weight can be decoded");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const uint8_t> file(data, size);
  const auto gguf = format::ParseGguf(file, "a/model.gguf");
  if (!gguf.ok()) return 0;
  ReadUnderEveryType(gguf->metadata);
  DecodeWeights(*gguf, file);
  if (const auto config = format::GgufConfig(*gguf, file, "a/model.gguf"); config.ok()) {
    std::vector<format::TensorInfo> tensors;
    for (const format::GgufTensor& tensor : gguf->tensors) {
      tensors.push_back(tensor.info);
      tensors.back().name = format::HfTensorName(tensor.info.name, *config);
    }
    (void)format::MatchTensors(*config, tensors, "a/model.gguf");
  }
  const auto vocabulary = format::ReadGgufVocabulary(gguf->metadata, "a/model.gguf");
  if (!vocabulary.ok()) return 0;
  const auto tokenizer = text::TokenizerFromGguf(*vocabulary);
  if (tokenizer.ok()) (void)(*tokenizer)->Encode("Wie geht's? 1 + 1 = 2\n");
  return 0;
}
