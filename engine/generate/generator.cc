#include "engine/generate/generator.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/generate/step_runner.h"

namespace finetuned::generate {
namespace {

// A request whose prompt is stored, as long as some of its samples wait for their start.
struct OpenPrompt {
  int64_t request = 0;
  std::vector<int32_t> blocks;
  at::Tensor hidden_1D;
  int64_t started = 0;  // samples
};

// A sequence that decodes.
struct Sequence {
  int64_t request = 0, sample = 0;
  int32_t slot = 0;
  std::vector<int32_t> blocks;
  int64_t longest = 0;   // tokens of the answer at most
  int64_t launched = 0;  // steps that were started for it
  bool ended = false;
};
using SequencePtr = std::shared_ptr<Sequence>;

// A step on its way; rows beyond the sequences are padding.
struct Pending {
  StepResult result;
  std::vector<SequencePtr> rows;
};

kernels::SamplingRow RowOf(const SamplingOptions& o, int64_t sample, int64_t prompt_tokens) {
  kernels::SamplingRow row;
  row.seed = o.seed;
  row.sample = static_cast<uint32_t>(sample);
  row.prompt_tokens = static_cast<int32_t>(prompt_tokens);
  row.inverse_temperature = o.temperature > 0 ? static_cast<float>(1 / o.temperature) : 0.0f;
  row.top_p = static_cast<float>(o.top_p);
  row.log_min_p = o.min_p > 0 ? static_cast<float>(std::log(o.min_p)) : 0.0f;
  row.penalty = static_cast<float>(o.repetition_penalty);
  row.top_k = static_cast<int32_t>(std::min<int64_t>(o.top_k, INT32_MAX));
  return row;
}

}  // namespace

class Generator::Impl {
 public:
  Impl(const model::BaseModel& base, const lora::Adapter* adapter, const GeneratorOptions& options)
      : base_(base), options_(options), runner_(base, adapter, options) {
    for (int64_t s = options.max_batch - 1; s >= 0; --s) free_slots_.push_back(static_cast<int32_t>(s));
  }

  absl::StatusOr<std::vector<std::vector<Completion>>> Run(const std::vector<Request>& requests,
                                                           const TokenCallback& on_token,
                                                           const std::atomic<bool>* cancel) {
    if (absl::Status s = Check(requests); !s.ok()) return s;
    requests_ = &requests;
    on_token_ = &on_token;
    results_.clear();
    for (const Request& r : requests) results_.emplace_back(static_cast<size_t>(r.num_samples));
    next_request_ = 0;
    while (next_request_ < static_cast<int64_t>(requests.size()) || !open_.empty() || !active_.empty() ||
           !pending_.empty()) {
      if (cancel != nullptr && *cancel) {
        Abandon();
        return absl::CancelledError("generation was cancelled");
      }
      Admit();
      // The newest step stays in flight, so that the device does not wait for the host.
      const size_t in_flight = Step() ? 1 : 0;
      while (pending_.size() > in_flight) Collect();
    }
    return std::move(results_);
  }

  std::map<std::string, int64_t> Bytes() const { return runner_.Bytes(); }

 private:
  int64_t Longest(const Request& r) const {
    return std::min<int64_t>(r.sampling.max_new_tokens,
                             options_.max_sequence_tokens - static_cast<int64_t>(r.prompt_ids.size()));
  }
  // The last token of an answer is never fed, but a step that was in flight may.
  int64_t SequenceBlocks(const Request& r) const {
    return BlocksOf(static_cast<int64_t>(r.prompt_ids.size()) + Longest(r));
  }
  static int64_t FullBlocks(const Request& r) {
    return static_cast<int64_t>(r.prompt_ids.size()) / kernels::kCacheBlock;
  }

  absl::Status Check(const std::vector<Request>& requests) const {
    const int64_t usable = runner_.cache().blocks() - 1;
    for (size_t i = 0; i < requests.size(); ++i) {
      const Request& r = requests[i];
      const auto bad = [&](auto... parts) {
        return absl::InvalidArgumentError(absl::StrCat("request ", i, ": ", parts...));
      };
      const int64_t prompt = static_cast<int64_t>(r.prompt_ids.size());
      if (absl::Status s = ValidateSampling(r.sampling); !s.ok()) return bad(s.message());
      if (r.num_samples < 1) return bad("num_samples: is ", r.num_samples, ", must be above 0");
      if (prompt == 0) return bad("the prompt is empty");
      if (prompt >= options_.max_sequence_tokens) {
        return bad("the prompt has ", prompt, " tokens, prompt and answer together may have ",
                   options_.max_sequence_tokens);
      }
      for (int32_t id : r.prompt_ids) {
        if (id < 0 || id >= base_.config.vocab_size) {
          return bad("token ", id, " is outside the vocabulary of ", base_.config.vocab_size);
        }
      }
      if (SequenceBlocks(r) + 1 > usable) {
        return bad("prompt and answer need ", (SequenceBlocks(r) + 1) * kernels::kCacheBlock,
                   " tokens of cache, it has ", usable * kernels::kCacheBlock);
      }
    }
    return absl::OkStatus();
  }
  

  // Opens prompts and starts sequences while slots and blocks last.
  void Admit() {
    std::vector<SequenceStart> starts;
    std::vector<SequencePtr> started;
    StartOpen(&starts, &started);
    while (open_.empty() && OpenPrompts()) StartOpen(&starts, &started);
    if (starts.empty()) return;
    runner_.cache().Copy(copies_);
    copies_.clear();
    pending_.push_back({runner_.Start(starts), started});
    active_.insert(active_.end(), started.begin(), started.end());
  }

  // Blocks that all samples of a request take beside the stored prompt: the last one goes on in the prompt's own last
  // block, the others in copies of it.
  int64_t BlocksToStart(const OpenPrompt& prompt, const Request& r) const {
    const bool last = prompt.started + 1 == r.num_samples;
    return SequenceBlocks(r) - (last ? static_cast<int64_t>(prompt.blocks.size()) : FullBlocks(r));
  }

  void StartOpen(std::vector<SequenceStart>* starts, std::vector<SequencePtr>* started) {
    while (!open_.empty() && !free_slots_.empty()) {
      OpenPrompt& prompt = open_.front();
      const Request& r = (*requests_)[prompt.request];
      if (BlocksToStart(prompt, r) > runner_.cache().pool().free()) return;
      auto sequence = std::make_shared<Sequence>();
      sequence->request = prompt.request;
      sequence->sample = prompt.started;
      sequence->longest = Longest(r);
      sequence->launched = 1;
      sequence->slot = free_slots_.back();
      free_slots_.pop_back();
      sequence->blocks = TakeBlocks(prompt, r);
      starts->push_back({sequence->slot, sequence->blocks, &r.prompt_ids, prompt.hidden_1D,
                         RowOf(r.sampling, sequence->sample, static_cast<int64_t>(r.prompt_ids.size()))});
      started->push_back(std::move(sequence));
      if (++prompt.started == r.num_samples) open_.pop_front();
    }
  }

  std::vector<int32_t> TakeBlocks(OpenPrompt& prompt, const Request& r) {
    BlockPool& pool = runner_.cache().pool();
    const bool last = prompt.started + 1 == r.num_samples;
    std::vector<int32_t> blocks = prompt.blocks;
    if (!last) {
      blocks.resize(static_cast<size_t>(FullBlocks(r)));
      for (int32_t b : blocks) pool.Share(b);
      if (blocks.size() < prompt.blocks.size()) {
        blocks.push_back(pool.Take());
        copies_.emplace_back(prompt.blocks.back(), blocks.back());
      }
    }
    while (static_cast<int64_t>(blocks.size()) < SequenceBlocks(r)) blocks.push_back(pool.Take());
    return blocks;
  }

  // Stores the prompts of the next requests, in passes of at most prefill_tokens. False: there is no request or no
  // room for one.
  bool OpenPrompts() {
    std::vector<PromptPass> passes;
    int64_t tokens = 0, slots = static_cast<int64_t>(free_slots_.size());
    int64_t free = runner_.cache().pool().free();
    while (next_request_ < static_cast<int64_t>(requests_->size()) && slots > 0) {
      const Request& r = (*requests_)[next_request_];
      const int64_t n = static_cast<int64_t>(r.prompt_ids.size());
      if (!passes.empty() && tokens + n > options_.prefill_tokens) break;
      // Its first sample must be able to start, else the prompt would hold blocks for nothing.
      const int64_t own = r.num_samples == 1 ? SequenceBlocks(r) - BlocksOf(n) : SequenceBlocks(r) - FullBlocks(r);
      if (BlocksOf(n) + own > free) break;
      // What its samples are going to take.
      free -= BlocksOf(n) + own + (std::min(slots, r.num_samples) - 1) * (SequenceBlocks(r) - FullBlocks(r));
      slots -= r.num_samples;
      tokens += n;
      OpenPrompt prompt{next_request_++, {}, {}, 0};
      for (int64_t b = 0; b < BlocksOf(n); ++b) prompt.blocks.push_back(runner_.cache().pool().Take());
      passes.push_back({&r.prompt_ids, prompt.blocks});
      open_.push_back(std::move(prompt));
    }
    if (passes.empty()) return false;
    const std::vector<at::Tensor> hidden = runner_.Prefill(passes);
    for (size_t i = 0; i < hidden.size(); ++i) open_[open_.size() - hidden.size() + i].hidden_1D = hidden[i];
    return true;
  }

  // One token more for every sequence that may still grow. False: there is none.
  bool Step() {
    std::vector<int32_t> slots;
    std::vector<SequencePtr> rows;
    for (const SequencePtr& s : active_) {
      if (s->launched >= s->longest) continue;
      ++s->launched;
      slots.push_back(s->slot);
      rows.push_back(s);
    }
    if (slots.empty()) return false;
    pending_.push_back({runner_.Decode(slots), std::move(rows)});
    return true;
  }

  // The oldest step's tokens.
  void Collect() {
    Pending step = std::move(pending_.front());
    pending_.pop_front();
    step.result.Wait();
    for (size_t r = 0; r < step.rows.size(); ++r) {
      Sequence& s = *step.rows[r];
      if (s.ended) continue;  // the step was started before its end was known
      const int64_t row = static_cast<int64_t>(r);
      Take(s, step.result.token(row), step.result.logprob(row));
      if (s.ended) Release(s);
    }
    std::erase_if(active_, [](const SequencePtr& s) { return s->ended; });
  }

  void Take(Sequence& s, int32_t token, float logprob) {
    Completion& out = results_[s.request][s.sample];
    out.tokens.push_back(token);
    out.logprobs.push_back(logprob);
    const std::vector<int32_t>& eos = (*requests_)[s.request].sampling.eos_ids;
    const int64_t count = static_cast<int64_t>(out.tokens.size());
    const bool stop = std::find(eos.begin(), eos.end(), token) != eos.end();
    TokenEvent event{s.request, s.sample, count - 1, token, logprob, stop || count >= s.longest,
                     stop ? FinishReason::kStop : FinishReason::kLength};
    const bool go_on = !*on_token_ || (*on_token_)(event);
    s.ended = event.last || !go_on;
    out.finish = event.last && go_on ? event.finish : FinishReason::kStop;
  }

  void Release(const Sequence& s) {
    for (int32_t b : s.blocks) runner_.cache().pool().Release(b);
    free_slots_.push_back(s.slot);
  }

  // Leaves nothing behind: the next call finds every slot and block free.
  void Abandon() {
    for (Pending& p : pending_) p.result.Wait();
    pending_.clear();
    for (const SequencePtr& s : active_) Release(*s);
    active_.clear();
    for (const OpenPrompt& p : open_) {
      for (int32_t b : p.blocks) runner_.cache().pool().Release(b);
    }
    open_.clear();
  }

  const model::BaseModel& base_;
  const GeneratorOptions options_;
  StepRunner runner_;
  std::vector<int32_t> free_slots_;
  // Of the running call:
  const std::vector<Request>* requests_ = nullptr;
  const TokenCallback* on_token_ = nullptr;
  std::vector<std::vector<Completion>> results_;
  int64_t next_request_ = 0;
  std::deque<OpenPrompt> open_;
  std::vector<SequencePtr> active_;
  std::deque<Pending> pending_;
  std::vector<std::pair<int32_t, int32_t>> copies_;  // of blocks, before the sequences start
};

Generator::Generator(const model::BaseModel& base, const lora::Adapter* adapter,
                     const GeneratorOptions& options)
    : impl_(std::make_unique<Impl>(base, adapter, options)) {}
Generator::~Generator() = default;

absl::StatusOr<std::vector<std::vector<Completion>>> Generator::Generate(
    const std::vector<Request>& requests, const TokenCallback& on_token,
    const std::atomic<bool>* cancel) {
  return impl_->Run(requests, on_token, cancel);
}

std::map<std::string, int64_t> Generator::Bytes() const { return impl_->Bytes(); }

}  // namespace finetuned::generate
