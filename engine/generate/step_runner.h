// The device's half of generation: passes over prompts, decode steps, choice of tokens. What a sequence needs lies in
// a slot; a step gets the slots of its rows.
// Legend: S slots (max_batch and one of rows without sequence), M blocks of a slot's table, D hidden, V vocabulary.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/generate/decode_graphs.h"
#include "engine/generate/generator.h"
#include "engine/generate/kv_cache.h"
#include "engine/model/layer.h"
#include "kernels/sample_tokens.h"

namespace finetuned::generate {

// A prompt to be stored.
struct PromptPass {
  const std::vector<int32_t>* ids = nullptr;
  std::vector<int32_t> blocks;  // that receive it
};

// A sequence to be started on a stored prompt.
struct SequenceStart {
  int32_t slot = 0;
  std::vector<int32_t> blocks;  // table: the prompt's and the answer's
  const std::vector<int32_t>* prompt_ids = nullptr;
  at::Tensor hidden_1D;         // of the prompt's last token, from Prefill
  kernels::SamplingRow sampling;
};

// Tokens and log-probabilities of one step, on their way to the host.
class StepResult {
 public:
  StepResult(at::Tensor host, at::Device device);
  // Waits for the step. Row r's token and log-probability.
  void Wait();
  int32_t token(int64_t row) const { return host_2B_.const_data_ptr<int32_t>()[row]; }
  float logprob(int64_t row) const;

 private:
  at::Tensor host_2B_;
  std::shared_ptr<void> done_;  // an event; null on the CPU
};

// Nothing here waits for the device. Steps run in the order of the calls.
class StepRunner {
 public:
  StepRunner(const model::BaseModel& base, const lora::Adapter* adapter,
             const GeneratorOptions& options);

  KvCache& cache() { return cache_; }
  const KvCache& cache() const { return cache_; }

  // Stores the prompts' keys and values; returns the last token's hidden rows (before the final norm), one tensor
  // [1, D] per prompt.
  std::vector<at::Tensor> Prefill(const std::vector<PromptPass>& prompts);
  // Fills the slots and chooses each sequence's first token.
  StepResult Start(const std::vector<SequenceStart>& sequences);
  // One more token for each slot.
  StepResult Decode(const std::vector<int32_t>& slots);

  std::map<std::string, int64_t> Bytes() const;

 private:
  model::PassContext Pass(const model::DeviceBatch& batch, model::Workspace* workspace,
                          model::CacheAttention* attention, bool few_rows);
  at::Tensor ForwardLayers(const model::PassContext& pass);
  // Rows of the residual stream -> out_2B_.
  void Choose(const at::Tensor& x_BD, const at::Tensor& slots_B, int64_t rows);
  void DecodeBody(int64_t bucket);
  bool FewRows(int64_t rows) const;
  bool Records(int64_t bucket) const;
  int64_t Bucket(int64_t rows) const;
  StepResult Deliver(int64_t rows);
  void FillSlots(const std::vector<SequenceStart>& sequences);

  const model::BaseModel& base_;
  const lora::Adapter* adapter_;
  const GeneratorOptions options_;
  const at::Device device_;
  const int64_t pad_slot_;
  model::Workspace own_prefill_, decode_;
  const bool all_stored_, all_stand_;
  model::Workspace* const prefill_;
  KvCache cache_;
  DecodeGraphs graphs_;
  int64_t pass_number_ = 0;
  bool warm_ = false;  // the largest step has run: its buffers exist
  kernels::SamplingState state_;
  at::Tensor tables_SM_, slots_B_, logits_BV_, out_2B_;
  std::vector<int32_t> last_slots_;  // what slots_B_ holds
};

}  // namespace finetuned::generate
