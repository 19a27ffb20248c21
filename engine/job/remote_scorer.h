#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

// Scores of completions that are computed outside the worker: the seam between a GRPO run and whoever
// carries its questions. Free of LibTorch and of protobuf.
namespace finetuned::job {

struct ScoreItem {
  std::string prompt_id;
  int32_t completion_index = 0;  // within its group
  std::string prompt_json;       // as the row has it: a string or a list of messages
  std::string completion;
  std::vector<int32_t> tokens;
  std::map<std::string, std::string> columns;
  bool truncated = false;
};

struct ScoreQuestion {
  std::string batch_id;          // unique in the job
  int64_t step = 0;
  std::vector<ScoreItem> items;  // one group
};

struct ScoreAnswer {
  std::map<std::string, std::vector<double>> scores;  // by reward; NaN: it abstained
  std::string error;                                  // not empty: nobody could score the batch
};

class RemoteScorer {
 public:
  virtual ~RemoteScorer() = default;
  // Sends the question and returns at once. Asking again what was asked before is harmless.
  virtual void Ask(const ScoreQuestion& question) = 0;
  // Waits for the answer; nothing when `stop` became true first. `stop` is called several times a second.
  virtual std::optional<ScoreAnswer> Wait(const std::string& batch_id,
                                          const std::function<bool()>& stop) = 0;
};

}  // namespace finetuned::job
