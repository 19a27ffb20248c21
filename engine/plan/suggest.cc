#include "engine/plan/suggest.h"

#include <cstddef>
#include <functional>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/plan/standing_weights.h"

namespace finetuned::plan {
namespace {

constexpr int64_t kShortestLength = 128, kSmallestRank = 8;

// A setting that can be lowered: gives the next smaller value of it, or nothing.
struct Lever {
  const char* field;
  std::function<bool(PlanInput*)> lower;
  std::function<std::string(const PlanInput&)> value;
};

std::string Number(int64_t n) { return absl::StrCat(n); }

// In the order of what they cost the user: time only, speed only, then what the model learns from.
std::vector<Lever> Levers(int64_t host_bytes) {
  const auto on = [](const PlanInput&) { return std::string("on"); };
  return {
      {"quantization.standing_layers",
       [](PlanInput* in) { return MostStandingLayers(*in) > 0 && std::exchange(in->standing_layers, 0) > 0; },
       [](const PlanInput& in) { return Number(in.standing_layers); }},
      {"compute.activation_checkpointing",
       [](PlanInput* in) {
         const bool was_on = std::exchange(in->activation_checkpointing, true);
         const int64_t kept = std::exchange(in->keep_all_layers, 0) + std::exchange(in->keep_attention_layers, 0) +
                              std::exchange(in->piece_rows, 0);
         return !was_on || kept > 0;
       },
       on},
      {"compute.activation_offload",
       [host_bytes](PlanInput* in) {
         PlanInput with = *in;
         with.activation_checkpointing = with.activation_offload = true;
         if (in->activation_offload || !in->on_gpu || PlanHostMemory(with) > host_bytes) return false;
         *in = with;
         return true;
       },
       [](const PlanInput&) { return std::string("on (with activation_checkpointing)"); }},
      {"schedule.micro_batch_size",
       [](PlanInput* in) {
         if (in->micro_batch_size <= 1) return false;
         in->micro_batch_size /= 2;
         return true;
       },
       [](const PlanInput& in) { return Number(in.micro_batch_size); }},
      {"quantization.base", [](PlanInput* in) {
         const BaseFormat was = std::exchange(in->base, BaseFormat::kNf4);
         return was != BaseFormat::kNf4 && was != BaseFormat::kFp4;
       },
       [](const PlanInput&) { return std::string("nf4"); }},
      {"optimizer.kind",
       [](PlanInput* in) { return std::exchange(in->optimizer, Optimizer::kAdamW8bit) != Optimizer::kAdamW8bit; },
       [](const PlanInput&) { return std::string("adamw_8bit"); }},
      {"schedule.max_seq_length",
       [](PlanInput* in) {
         if (in->max_seq_length / 2 < kShortestLength) return false;
         in->max_seq_length /= 2;
         return true;
       },
       [](const PlanInput& in) { return Number(in.max_seq_length); }},
      {"lora.rank",
       [](PlanInput* in) {
         if (in->lora_rank / 2 < kSmallestRank) return false;
         in->lora_rank /= 2;
         return true;
       },
       [](const PlanInput& in) { return Number(in.lora_rank); }},
  };
}

class Search {
 public:
  Search(const PlanInput& input, int64_t budget, int64_t host)
      : input_(input), budget_(budget), levers_(Levers(host)) {}

  // Lowers the chosen levers, the last one step by step and the others as far as they go, until the plan fits. The
  // steps taken are the fewest of the last lever.
  std::optional<Suggestion> Try(const std::vector<size_t>& chosen) const {
    PlanInput in = input_;
    for (size_t i = 0; i < chosen.size(); ++i) {
      const Lever& lever = levers_[chosen[i]];
      lever.lower(&in);
      if (i + 1 == chosen.size()) {
        while (!Fits(in)) {
          if (!lever.lower(&in)) return std::nullopt;
        }
      } else {
        while (lever.lower(&in)) {
        }
      }
    }
    return Describe(in, chosen);
  }

  // Levers that can be lowered at all.
  std::vector<size_t> Usable() const {
    std::vector<size_t> usable;
    for (size_t i = 0; i < levers_.size(); ++i) {
      PlanInput in = input_;
      if (levers_[i].lower(&in)) usable.push_back(i);
    }
    return usable;
  }

 private:
  bool Fits(const PlanInput& in) const { return PlanMemory(in).total() <= budget_; }

  Suggestion Describe(const PlanInput& in, const std::vector<size_t>& chosen) const {
    Suggestion s{in, {}, PlanMemory(in).total(), ""};
    std::vector<std::string> changes;
    for (size_t i : chosen) {
      s.fields.emplace_back(levers_[i].field);
      changes.push_back(absl::StrCat(levers_[i].field, " ", levers_[i].value(in)));
    }
    s.message = absl::StrCat("set ", absl::StrJoin(changes, ", "), ": ", FormatGigabytes(s.total_bytes));
    return s;
  }

  const PlanInput& input_;
  const int64_t budget_;
  const std::vector<Lever> levers_;
};

}  // namespace

std::vector<Suggestion> SuggestFitting(const PlanInput& input, int64_t budget_bytes, int64_t host_bytes) {
  const Search search(input, budget_bytes, host_bytes);
  std::vector<Suggestion> found;
  const auto consider = [&](const std::vector<size_t>& chosen) {
    if (auto s = search.Try(chosen)) found.push_back(*std::move(s));
  };
  const std::vector<size_t> usable = search.Usable();
  for (size_t i : usable) consider({i});
  // Two levers, then the first three, four, ... together: each time the last one only as far as needed.
  for (size_t i = 0; i < usable.size() && found.empty(); ++i) {
    for (size_t j = i + 1; j < usable.size(); ++j) consider({usable[i], usable[j]});
  }
  for (size_t n = 3; n <= usable.size() && found.empty(); ++n) {
    consider({usable.begin(), usable.begin() + static_cast<std::ptrdiff_t>(n)});
  }
  return found;
}

}  // namespace finetuned::plan
