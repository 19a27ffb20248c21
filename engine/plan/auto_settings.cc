#include "engine/plan/auto_settings.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "engine/plan/standing_weights.h"

namespace finetuned::plan {
namespace {

constexpr int64_t kDefaultLength = 1024, kShortestLength = 128, kLengthUnit = 64;
constexpr int64_t kDefaultRank = 16, kSmallestRank = 8;
constexpr double kOffloadWorth = 0.08;  // of speed

// A combination of settings with what it costs.
struct Candidate {
  PlanInput input;
  int64_t accumulation = 1;
  int64_t bytes = 0;
  double tokens_per_second = 0;
};

class Chooser {
 public:
  explicit Chooser(const AutoRequest& request)
      : r_(request), device_(request.device != nullptr ? *request.device : ReferenceDevice()) {}

  AutoSettings Choose() {
    best_ = Settle();
    AutoSettings out;
    out.input = best_.input;
    out.accumulation = best_.accumulation;
    out.fits = Fits(best_);
    out.tokens_per_second = best_.tokens_per_second;
    Explain(&out);
    return out;
  }

 private:
  bool Fits(const Candidate& c) const { return c.bytes <= r_.budget_bytes; }

  // The fastest that fits: at the length the data need and the usual rank; else at a smaller rank; else at the
  // longest length that fits. When nothing fits, what needs least.
  Candidate Settle() const {
    const int64_t length = r_.open_length ? NeededLength() : r_.input.max_seq_length;
    const int64_t rank = r_.open_rank ? kDefaultRank : r_.input.lora_rank;
    Candidate best = Best(length, rank);
    const int64_t smallest = r_.open_rank ? kSmallestRank : rank;
    if (!Fits(best) && smallest < rank) best = Best(length, smallest);
    if (Fits(best) || !r_.open_length) return best;
    const int64_t longest = LongestThatFits(length, smallest);
    return Best(longest, smallest);
  }

  // Every row uncut, in multiples that products like; without data the default.
  int64_t NeededLength() const {
    int64_t needed = kDefaultLength;
    if (r_.data.has_value() && !r_.data->packed) {
      needed = std::max(kShortestLength, (r_.data->longest + kLengthUnit - 1) / kLengthUnit * kLengthUnit);
    } else if (r_.data.has_value()) {
      needed = std::max(needed, (r_.data->longest + kLengthUnit - 1) / kLengthUnit * kLengthUnit);
    }
    return r_.model_max_length > 0 ? std::min(needed, r_.model_max_length) : needed;
  }

  int64_t LongestThatFits(int64_t length, int64_t rank) const {
    int64_t fits = kShortestLength / kLengthUnit, above = length / kLengthUnit + 1;
    while (above - fits > 1) {
      const int64_t middle = (fits + above) / 2;
      (Fits(Best(middle * kLengthUnit, rank)) ? fits : above) = middle;
    }
    return fits * kLengthUnit;
  }

  // The fastest of the candidates at this length and rank that fit, else the smallest of all.
  Candidate Best(int64_t length, int64_t rank) const {
    std::optional<Candidate> best;
    for (const Candidate& c : Candidates(length, rank)) {
      const bool better = !best.has_value() || (Fits(c) != Fits(*best) ? Fits(c)
                                                : Fits(c)              ? Faster(c, *best)
                                                                       : c.bytes < best->bytes);
      if (better) best = c;
    }
    return *best;
  }

  // Equal speed within half a percent: the one that needs less memory. Pinned host memory is dear to others: it must be
  // worth some speed where the job fits without.
  static bool Faster(const Candidate& a, const Candidate& b) {
    const auto speed = [](const Candidate& c) {
      return c.tokens_per_second * (c.input.activation_offload ? 1 - kOffloadWorth : 1);
    };
    if (std::abs(speed(a) / speed(b) - 1) < 0.005) return a.bytes < b.bytes;
    return speed(a) > speed(b);
  }

  std::vector<Candidate> Candidates(int64_t length, int64_t rank) const {
    std::vector<Candidate> all;
    for (const auto& [micro_batch, accumulation] : Batches()) {
      for (const BaseFormat base : Bases()) {
        for (const auto& [checkpointing, offload] : Policies()) {
          Candidate c{r_.input, accumulation, 0, 0};
          c.input.max_seq_length = length;
          c.input.lora_rank = rank;
          c.input.micro_batch_size = micro_batch;
          c.input.base = base;
          c.input.activation_checkpointing = checkpointing;
          c.input.activation_offload = offload;
          if (r_.open_standing && MostStandingLayers(c.input) > 0) c.input.standing_layers = 0;
          if (r_.open_checkpointing) c.input.keep_all_layers = c.input.keep_attention_layers = c.input.piece_rows = 0;
          if (offload && r_.open_offload && PlanHostMemory(c.input) > r_.host_bytes) continue;
          all.push_back(Measured(c));
          if (!checkpointing || !r_.open_checkpointing || !r_.open_keep) continue;
          // Where everything may be kept, no part need be.
          if (!Fits(WithoutRecompute(all.back()))) AddKeeping(all.back(), &all);
        }
      }
    }
    if (r_.open_standing) AddStanding(&all);
    return all;
  }

  // The same again with as many layers' weights standing as fit.
  void AddStanding(std::vector<Candidate>* all) const {
    for (size_t i = 0, end = all->size(); i < end; ++i) {
      const Candidate c = (*all)[i];
      const auto standing = [](PlanInput* in, int64_t k) { in->standing_layers = k; };
      const int64_t layers = Fits(c) ? Most(c, MostStandingLayers(c.input), standing) : 0;
      if (layers > 0) all->push_back(With(c, layers, standing));
    }
  }

  // The same with as many layers kept as fit: whole ones alone; attention's part of all before whole ones; in the usual
  // pieces and in one.
  void AddKeeping(Candidate none, std::vector<Candidate>* all) const {
    AddKeepingWithPieces(none, all);
    const int64_t tokens = none.input.tokens();
    if (tokens <= LayerPieceRows(none.input.model.intermediate_size)) return;
    none.input.piece_rows = (tokens + 3) / 4 * 4;
    all->push_back(Measured(none));
    AddKeepingWithPieces(Measured(none), all);
  }
  void AddKeepingWithPieces(const Candidate& none, std::vector<Candidate>* all) const {
    if (!Fits(none)) return;
    const int64_t n = none.input.model.num_hidden_layers;
    const auto attention = [](PlanInput* in, int64_t k) { in->keep_attention_layers = k; };
    const auto whole = [](PlanInput* in, int64_t k) { in->keep_all_layers = k; };
    const auto whole_after_attention = [n](PlanInput* in, int64_t k) {
      in->keep_all_layers = k;
      in->keep_attention_layers = n - k;
    };
    all->push_back(With(none, Most(none, n, whole), whole));
    const int64_t layers = Most(none, n, attention);
    all->push_back(With(none, layers, attention));
    if (layers == n) all->push_back(With(none, Most(none, n, whole_after_attention), whole_after_attention));
  }

  Candidate WithoutRecompute(Candidate c) const {
    c.input.activation_checkpointing = c.input.activation_offload = false;
    return Measured(c);
  }

  // The largest number of layers up to `layers` with which c fits; c with none does.
  template <typename Set>
  int64_t Most(const Candidate& c, int64_t layers, Set set) const {
    int64_t fits = 0, above = layers + 1;
    while (above - fits > 1) {
      const int64_t middle = (fits + above) / 2;
      (Fits(With(c, middle, set)) ? fits : above) = middle;
    }
    return fits;
  }

  template <typename Set>
  Candidate With(Candidate c, int64_t layers, Set set) const {
    set(&c.input, layers);
    return Measured(c);
  }

  // Micro-batches with their accumulation. Open ones keep the rows of an optimizer step what they are.
  std::vector<std::pair<int64_t, int64_t>> Batches() const {
    if (!r_.open_micro_batch) {
      const int64_t given = r_.input.micro_batch_size;
      const int64_t more = std::max<int64_t>(1, kRowsPerStep / given);
      return {{given, r_.open_accumulation ? more : r_.accumulation}};
    }
    std::vector<std::pair<int64_t, int64_t>> batches;
    for (int64_t micro = kRowsPerStep; micro >= 1; micro /= 2) {
      if (r_.open_accumulation) {
        batches.emplace_back(micro, kRowsPerStep / micro);
      } else if (micro == 1 || micro * r_.accumulation <= kRowsPerStep) {
        batches.emplace_back(micro, r_.accumulation);
      }
    }
    return batches;
  }

  std::vector<BaseFormat> Bases() const {
    if (!r_.open_base) return {r_.input.base};
    return {BaseFormat::kNf4, BaseFormat::kCompute};
  }

  // (checkpointing, offload).
  std::vector<std::pair<bool, bool>> Policies() const {
    std::vector<std::pair<bool, bool>> policies;
    for (const bool checkpointing : {false, true}) {
      if (!r_.open_checkpointing && checkpointing != r_.input.activation_checkpointing) continue;
      for (const bool offload : {false, true}) {
        if (offload && !checkpointing) continue;
        if (!r_.open_offload && offload != r_.input.activation_offload) continue;
        policies.emplace_back(checkpointing, offload);
      }
    }
    if (policies.empty()) policies.emplace_back(r_.input.activation_checkpointing, r_.input.activation_offload);
    return policies;
  }

  Candidate Measured(Candidate c) const {
    c.bytes = PlanMemory(c.input).total();
    const double full = static_cast<double>(c.input.max_seq_length);
    const bool known = r_.data.has_value() && r_.data->rows > 0;
    const double document = known ? std::min(full, r_.data->mean()) : full;
    const double row = known && !r_.data->packed ? document : full;  // a packed row is full
    const double tokens = static_cast<double>(c.input.tokens()) * row / full;
    c.tokens_per_second = tokens / MicroBatchSeconds(c.input, device_, tokens, document, c.accumulation);
    return c;
  }

  // ---- reasons

  void Explain(AutoSettings* out) const {
    const auto add = [out](bool open, const char* field, std::string value, std::string reason) {
      if (open) out->choices.push_back({field, std::move(value), std::move(reason)});
    };
    const PlanInput& in = best_.input;
    add(r_.open_length, "schedule.max_seq_length", absl::StrCat(in.max_seq_length), LengthReason());
    add(r_.open_rank, "lora.rank", absl::StrCat(in.lora_rank),
        in.lora_rank == kDefaultRank ? "the usual rank fits" : "a smaller rank was needed to fit");
    add(r_.open_base, "quantization.base", BaseFormatName(in.base),
        in.base == BaseFormat::kCompute ? Against("nf4", [](PlanInput* o) { o->base = BaseFormat::kNf4; })
                                        : Against("none", [](PlanInput* o) { o->base = BaseFormat::kCompute; }));
    add(r_.open_micro_batch, "schedule.micro_batch_size", absl::StrCat(in.micro_batch_size), BatchReason());
    add(r_.open_accumulation, "schedule.gradient_accumulation_steps", absl::StrCat(best_.accumulation),
        absl::StrCat("makes ", best_.accumulation * in.micro_batch_size, " rows an optimizer step"));
    add(r_.open_checkpointing, "compute.activation_checkpointing", CheckpointingName(in),
        Against(in.activation_checkpointing ? "off" : "on", [](PlanInput* o) {
          o->activation_checkpointing = !o->activation_checkpointing;
          o->activation_offload = o->activation_offload && o->activation_checkpointing;
          o->keep_all_layers = o->keep_attention_layers = o->piece_rows = 0;
        }));
    add(r_.open_standing && MostStandingLayers(in) > 0, "quantization.standing_layers", absl::StrCat(in.standing_layers),
        StandingReason());
    add(r_.open_offload, "compute.activation_offload", in.activation_offload ? "on" : "off", OffloadReason());
  }

  std::string StandingReason() const {
    if (best_.input.standing_layers > 0) return Against("0", [](PlanInput* o) { o->standing_layers = 0; });
    return Against("1", [](PlanInput* o) { o->standing_layers = 1; });
  }

  std::string OffloadReason() const {
    PlanInput other = best_.input;
    if (!other.activation_checkpointing) return "nothing waits for the backward pass but what is on the device anyway";
    other.activation_offload = true;
    const int64_t host = PlanHostMemory(other);
    if (host > r_.host_bytes) {
      return absl::StrCat("would take ", FormatGigabytes(host), " of host memory, of which ",
                          FormatGigabytes(r_.host_bytes), " may be used");
    }
    return Against(best_.input.activation_offload ? "off" : "on",
                   [](PlanInput* o) { o->activation_offload = !o->activation_offload; });
  }

  std::string LengthReason() const {
    const int64_t length = best_.input.max_seq_length;
    if (!r_.data.has_value()) return "default for this model";
    const int64_t cut = r_.data->LongerThan(length);
    if (cut == 0) return absl::StrCat("holds the longest row, ", r_.data->longest, " tokens");
    const bool model = r_.model_max_length > 0 && length >= r_.model_max_length / kLengthUnit * kLengthUnit;
    return absl::StrCat(model ? "the model's limit" : "the longest that fits", "; up to ", cut, " of ",
                        r_.data->rows, " rows are longer and will be cut");
  }

  // Compares with the same settings but for one.
  template <typename Change>
  std::string Against(const char* other, Change change) const {
    Candidate c = best_;
    change(&c.input);
    c = Measured(c);
    if (!Fits(c)) {
      return absl::StrCat(other, " needs ", FormatGigabytes(c.bytes), " of ", FormatGigabytes(r_.budget_bytes));
    }
    return absl::StrFormat("about %.0f tokens/s, %s: %.0f", best_.tokens_per_second, other, c.tokens_per_second);
  }

  std::string BatchReason() const {
    const int64_t rows = best_.input.micro_batch_size;
    if (!Fits(best_)) return "the smallest, and it still does not fit";
    if (rows == Batches().front().first) return "all rows of an optimizer step fit at once";
    return Against(absl::StrCat(2 * rows).c_str(), [](PlanInput* o) { o->micro_batch_size *= 2; });
  }

  const AutoRequest& r_;
  const DeviceSpeed& device_;
  Candidate best_;
};

}  // namespace

std::string CheckpointingName(const PlanInput& in) {
  if (!in.activation_checkpointing) return "off";
  if (in.keep_all_layers + in.keep_attention_layers + in.piece_rows == 0) return "on";
  const std::string layers = absl::StrCat("keep:", in.keep_all_layers, ":", in.keep_attention_layers);
  return in.piece_rows == 0 ? layers : absl::StrCat(layers, ":", in.piece_rows);
}

bool ParseCheckpointing(const std::string& value, PlanInput* in) {
  in->activation_checkpointing = false;
  in->keep_all_layers = in->keep_attention_layers = in->piece_rows = 0;
  if (value == "off") return true;
  int64_t numbers[3] = {};
  if (value != "on") {
    const std::vector<std::string> parts = absl::StrSplit(value, ':');
    if (parts.size() < 3 || parts.size() > 4 || parts[0] != "keep") return false;
    for (size_t i = 1; i < parts.size(); ++i) {
      if (!absl::SimpleAtoi(parts[i], &numbers[i - 1]) || numbers[i - 1] < 0) return false;
    }
    if (parts.size() == 4 && (numbers[2] == 0 || numbers[2] % 4 != 0)) return false;
  }
  in->activation_checkpointing = true;
  in->keep_all_layers = numbers[0];
  in->keep_attention_layers = numbers[1];
  in->piece_rows = numbers[2];
  return true;
}

double DataLengths::mean() const {
  return static_cast<double>(tokens) / static_cast<double>(std::max<int64_t>(1, rows));
}

int64_t DataLengths::LongerThan(int64_t length) const {
  if (length >= longest) return 0;
  int64_t sum = 0;
  for (size_t i = 0; i < histogram.size(); ++i) {
    if ((int64_t{1} << i) > length) sum += histogram[i];
  }
  return sum;
}

AutoSettings ChooseSettings(const AutoRequest& request) { return Chooser(request).Choose(); }

}  // namespace finetuned::plan
