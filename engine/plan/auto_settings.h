#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/plan/cost.h"
#include "engine/plan/memory_plan.h"

// Settings that a job left open, chosen so that tokens per second are highest within a budget of memory, by the cost
// model of cost.h, and the data are not cut where that can be helped.
namespace finetuned::plan {

// How long the rows are, in tokens, before anything is cut.
struct DataLengths {
  int64_t rows = 0, tokens = 0, longest = 0;
  std::vector<int64_t> histogram;  // [i]: rows with length in (2^(i-1), 2^i]; [0]: length 1
  bool packed = false;             // several rows fill one sequence

  double mean() const;
  // Rows longer than `length`, at most: of the part of the histogram it cuts through, all.
  int64_t LongerThan(int64_t length) const;
};

struct AutoRequest {
  PlanInput input;                    // what is open holds the default
  int64_t accumulation = 1;
  bool open_micro_batch = false, open_accumulation = false, open_length = false, open_rank = false;
  bool open_base = false, open_checkpointing = false, open_offload = false;
  bool open_keep = false;             // with open_checkpointing: what recompute leaves out, layer by layer, and its pieces
  bool open_standing = false;         // of a quantized base on a GPU, layers whose weights stay dequantized
  int64_t model_max_length = 0;       // 0: no limit known
  std::optional<DataLengths> data;    // unset: not known
  int64_t budget_bytes = 0;
  int64_t host_bytes = 0;             // that offloaded inputs may take, where open_offload
  const DeviceSpeed* device = nullptr;  // null: ReferenceDevice()
};

// One setting with what speaks for it.
struct AutoChoice {
  std::string field;  // "schedule.micro_batch_size"
  std::string value, reason;
};

struct AutoSettings {
  PlanInput input;
  int64_t accumulation = 1;
  bool fits = false;                  // false: nothing does, and this needs least
  double tokens_per_second = 0;
  std::vector<AutoChoice> choices;    // one for each open setting that applies
};

// Rows that make one optimizer step where neither micro-batch nor accumulation is given.
inline constexpr int64_t kRowsPerStep = 8;

// compute.activation_checkpointing as a word: "off", "on", or "keep:12:20" for recompute that leaves out the last 12
// layers, and q, k, v and attention of the 20 before these; "keep:12:20:8192" works on 8192 rows at a time.
std::string CheckpointingName(const PlanInput& input);
// Sets the fields of it; false: not such a word, and the fields are those of "off".
bool ParseCheckpointing(const std::string& value, PlanInput* input);

// REQUIRES: budget_bytes > 0.
AutoSettings ChooseSettings(const AutoRequest& request);

}  // namespace finetuned::plan
