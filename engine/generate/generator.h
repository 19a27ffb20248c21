// Text generation from a frozen base with or without an adapter, without merging: paged key/value cache, prompts
// stored once per request, sequences that end make room for waiting ones.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/generate/sampling_options.h"
#include "engine/lora/adapter.h"
#include "engine/model/base_model.h"
#include "engine/model/projection.h"
#include "engine/model/workspace.h"

namespace finetuned::generate {

struct Request {
  std::vector<int32_t> prompt_ids;  // not empty
  int64_t num_samples = 1;          // answers to the same prompt, whose cache they share
  SamplingOptions sampling;
};

enum class FinishReason {
  kStop,    // an end token, or the callback said so
  kLength,  // max_new_tokens or max_sequence_tokens
};

struct Completion {
  std::vector<int32_t> tokens;  // the end token included
  // Of each token under softmax(logits / temperature) (temperature 0: 1) before penalty, top-k, top-p and min-p:
  // what a training forward finds.
  std::vector<float> logprobs;
  FinishReason finish = FinishReason::kLength;
};

// One new token of a sequence, in order.
struct TokenEvent {
  int64_t request = 0;  // index into the requests
  int64_t sample = 0;   // 0 .. num_samples - 1
  int64_t index = 0;    // of the token in the answer
  int32_t token = 0;
  float logprob = 0;
  bool last = false;    // by end token or length
  FinishReason finish = FinishReason::kLength;  // when last
};

// Runs on the calling thread and must not wait. False ends the sequence with this token (kStop).
using TokenCallback = std::function<bool(const TokenEvent&)>;

struct GeneratorOptions {
  int64_t max_batch = 64;              // sequences that decode together
  int64_t cache_tokens = 64 * 1024;    // the cache's size: tokens of all sequences, shared prompts counted once
  int64_t max_sequence_tokens = 4096;  // prompt and answer of one sequence
  int64_t prefill_tokens = 2048;       // prompts of one pass together; a longer one has its own, in pieces of this
  bool cuda_graphs = true;             // replay a recorded decode step per batch size; GPU only
  // Buffers of the prompts' pass, e.g. a decoder's; null: own ones. Only used inside Generate.
  model::Workspace* workspace = nullptr;
  // Dequantized weights that stay, a decoder's; null: none. Prompts and steps of several sequences multiply with them.
  model::StandingWeights* standing = nullptr;
  // A row's result does not depend on the rows beside it: steps multiply with weights as they are stored.
  bool deterministic = false;
};

// Device memory is taken by the constructor and by the first Generate. The adapter's parameters may change between
// calls (call RefreshCompute); the tensors must stay. Not thread safe. Out of memory: c10::Error.
class Generator {
 public:
  // base, adapter (null: the base alone) and workspace must outlive the generator.
  Generator(const model::BaseModel& base, const lora::Adapter* adapter,
            const GeneratorOptions& options);
  ~Generator();
  Generator(const Generator&) = delete;
  Generator& operator=(const Generator&) = delete;

  // The answers, [request][sample]. A sequence is admitted when the cache holds its prompt and its longest answer, so
  // nothing admitted ever waits for room. Requests start in order. Call inside c10::InferenceMode.
  // INVALID_ARGUMENT: a prompt that is empty, too long or has ids out of the vocabulary, sampling options out of
  // range, or one sequence that the cache cannot hold; names the request. CANCELLED: `cancel` became true.
  absl::StatusOr<std::vector<std::vector<Completion>>> Generate(
      const std::vector<Request>& requests, const TokenCallback& on_token = nullptr,
      const std::atomic<bool>* cancel = nullptr);

  // Bytes by name, as the plan lists them.
  std::map<std::string, int64_t> Bytes() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace finetuned::generate
