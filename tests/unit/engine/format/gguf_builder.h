#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/unit/engine/format/test_files.h"

namespace finetuned::format {

inline std::string GgufString(const std::string& s) { return Raw<uint64_t>(s.size()) + s; }

// Builds GGUF files byte by byte, sound or broken.
class GgufBuilder {
 public:
  GgufBuilder& Value(const std::string& key, uint32_t type, const std::string& bytes) {
    values_ += GgufString(key) + Raw(type) + bytes;
    ++value_count;
    return *this;
  }
  GgufBuilder& U32(const std::string& key, uint32_t v) { return Value(key, 4, Raw(v)); }
  GgufBuilder& F32(const std::string& key, float v) { return Value(key, 6, Raw(v)); }
  GgufBuilder& String(const std::string& key, const std::string& v) {
    return Value(key, 8, GgufString(v));
  }
  GgufBuilder& Array(const std::string& key, uint32_t element, uint64_t count,
                     const std::string& bytes) {
    return Value(key, 9, Raw(element) + Raw(count) + bytes);
  }
  GgufBuilder& Tensor(const std::string& name, const std::vector<uint64_t>& dims, uint32_t type,
                      uint64_t offset) {
    tensors_ += GgufString(name) + Raw<uint32_t>(dims.size());
    for (uint64_t d : dims) tensors_ += Raw(d);
    tensors_ += Raw(type) + Raw(offset);
    ++tensor_count;
    return *this;
  }
  // An F32 tensor at the end of the data, filled with `fill`.
  GgufBuilder& F32Tensor(const std::string& name, const std::vector<uint64_t>& dims,
                         float fill = 0.5f) {
    Tensor(name, dims, 0, data.size());
    uint64_t n = 1;
    for (uint64_t d : dims) n *= d;
    for (uint64_t i = 0; i < n; ++i) data += Raw(fill);
    data.resize((data.size() + 31) / 32 * 32);
    return *this;
  }
  std::string Build() const {
    std::string out =
        "GGUF" + Raw(version) + Raw(tensor_count) + Raw(value_count) + values_ + tensors_;
    out.resize((out.size() + 31) / 32 * 32);
    return out + data;
  }

  uint32_t version = 3;
  uint64_t tensor_count = 0, value_count = 0;
  std::string data;

 private:
  std::string values_, tensors_;
};

// A Llama of one layer: hidden 4, intermediate 8, 2 heads of 2, vocabulary 6, tied head.
inline GgufBuilder LlamaKeys() {
  GgufBuilder b;
  b.String("general.architecture", "llama")
      .U32("llama.block_count", 1)
      .U32("llama.context_length", 16)
      .U32("llama.embedding_length", 4)
      .U32("llama.feed_forward_length", 8)
      .U32("llama.attention.head_count", 2)
      .F32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  return b;
}

// Adds the tensors of LlamaKeys' model but `except`.
inline GgufBuilder WithTensors(GgufBuilder b, const std::string& except = "") {
  const std::pair<const char*, std::vector<uint64_t>> tensors[] = {
      {"token_embd.weight", {4, 6}},   {"blk.0.attn_norm.weight", {4}},
      {"blk.0.attn_q.weight", {4, 4}}, {"blk.0.attn_k.weight", {4, 4}},
      {"blk.0.attn_v.weight", {4, 4}}, {"blk.0.attn_output.weight", {4, 4}},
      {"blk.0.ffn_norm.weight", {4}},  {"blk.0.ffn_gate.weight", {4, 8}},
      {"blk.0.ffn_up.weight", {4, 8}}, {"blk.0.ffn_down.weight", {8, 4}},
      {"output_norm.weight", {4}}};
  for (const auto& [name, dims] : tensors) {
    if (name != except) b.F32Tensor(name, dims);
  }
  return b;
}

}  // namespace finetuned::format
