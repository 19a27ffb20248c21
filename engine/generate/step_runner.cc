#include "engine/generate/step_runner.h"

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>

#include "engine/generate/paged_forward.h"
#include "engine/model/block_parts.h"
#include "engine/model/dora.h"
#include "engine/model/lm_head.h"
#include "engine/model/trained_modules.h"
#include "engine/plan/head.h"
#include "kernels/nf4_gemm.h"

namespace finetuned::generate {
namespace {

// Above these rows a dequantized weight and a library's product are faster.
constexpr int64_t kFewRowsCuda = 128, kFewRowsCpu = 8;

at::Tensor HostInts(at::IntArrayRef shape, at::ScalarType dtype, bool pinned) {
  return at::empty(shape, at::TensorOptions().dtype(dtype).pinned_memory(pinned));
}

// All prompts one after another.
data::PackedBatch Pack(const std::vector<PromptPass>& prompts) {
  data::PackedBatch batch;
  batch.cu_seqlens = {0};
  for (const PromptPass& prompt : prompts) {
    const int32_t n = static_cast<int32_t>(prompt.ids->size());
    batch.input_ids.insert(batch.input_ids.end(), prompt.ids->begin(), prompt.ids->end());
    for (int32_t t = 0; t < n; ++t) batch.position_ids.push_back(t);
    batch.cu_seqlens.push_back(batch.cu_seqlens.back() + n);
    batch.max_seqlen = std::max(batch.max_seqlen, n);
  }
  batch.labels.assign(batch.input_ids.size(), -100);
  return batch;
}

// Unlike any of a decoder or another runner, and unlike WeightPlace's -1.
int64_t NextPass() {
  static std::atomic<int64_t> passes = -1;
  return --passes;
}

// Every linear can be multiplied as it is stored.
bool AllStored(const model::BaseModel& base) {
  const auto stored = [](const model::FrozenLinear& linear) {
    return kernels::Nf4GemmSupports(linear.four_bit(), linear.in());
  };
  return std::all_of(base.layers.begin(), base.layers.end(), [&](const model::LayerWeights& w) {
    return stored(w.qkv) && stored(w.o) && stored(w.gate_up) && stored(w.down);
  });
}

}  // namespace

StepResult::StepResult(at::Tensor host, at::Device device) : host_2B_(std::move(host)) {
  if (!device.is_cuda()) return;
  auto event = std::make_shared<c10::Event>(device.type());
  event->record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
  done_ = event;
}

void StepResult::Wait() {
  if (done_ != nullptr) static_cast<c10::Event*>(done_.get())->synchronize();
}

float StepResult::logprob(int64_t row) const {
  return std::bit_cast<float>(host_2B_.const_data_ptr<int32_t>()[host_2B_.size(1) + row]);
}

StepRunner::StepRunner(const model::BaseModel& base, const lora::Adapter* adapter,
                       const GeneratorOptions& options)
    : base_(base),
      adapter_(adapter),
      options_(options),
      device_(base.options.device),
      pad_slot_(options.max_batch),
      own_prefill_(device_),
      decode_(device_),
      all_stored_(AllStored(base)),
      all_stand_(options.standing != nullptr && options.standing->layers.size() == base.layers.size()),
      prefill_(options.workspace != nullptr ? options.workspace : &own_prefill_),
      cache_(base.config, options.cache_tokens, device_, base.options.dtype) {
  const int64_t slots = options.max_batch + 1, v = base.config.vocab_size;
  const auto ints = at::TensorOptions().device(device_).dtype(at::kInt);
  state_.tokens_S = at::zeros({slots}, ints);
  state_.positions_S = at::zeros({slots}, ints);
  state_.seen_SW = at::zeros({slots, (v + 31) / 32}, ints);
  state_.params_SP = at::zeros({slots, static_cast<int64_t>(sizeof(kernels::SamplingRow))}, ints.dtype(at::kByte));
  tables_SM_ = at::zeros({slots, BlocksOf(options.max_sequence_tokens)}, ints);
  slots_B_ = at::full({options.max_batch}, pad_slot_, ints);
  logits_BV_ = at::empty({options.max_batch, v}, ints.dtype(at::kFloat));
  out_2B_ = at::zeros({2 * options.max_batch}, ints);
}

model::PassContext StepRunner::Pass(const model::DeviceBatch& batch, model::Workspace* workspace,
                                    model::CacheAttention* attention, bool few_rows) {
  model::PassContext pass;
  pass.base = &base_;
  pass.adapter = adapter_;
  pass.batch = &batch;
  pass.workspace = workspace;
  pass.piece_rows = (std::max(options_.prefill_tokens, options_.max_batch) + 3) / 4 * 4;  // in general one piece
  pass.attention = attention;
  pass.few_rows = few_rows;
  pass.deterministic = options_.deterministic;
  pass.standing = options_.standing;
  pass.number = pass_number_;
  pass.long_rope = model::TakesLongRope(base_.config, options_.max_sequence_tokens);  // one table for all of a cache
  // Shared with training, which may make it larger: a recorded step must not use it.
  if (!all_stand_ && (!few_rows || !all_stored_)) {
    pass.scratch = prefill_->Take("dequantized_weight", 0,
                                  {model::ScratchElements(base_, adapter_, /*recomputes=*/false)},
                                  base_.options.dtype);
  }
  // A prompt comes before every step, and a recorded step reads the gains where they are.
  if (!few_rows && adapter_ != nullptr) model::RefreshGains(base_, *adapter_, pass.scratch, *workspace);
  return pass;
}

at::Tensor StepRunner::ForwardLayers(const model::PassContext& pass) {
  const model::DeviceBatch& batch = *pass.batch;
  // Two buffers alternate.
  const auto input = [&](int64_t i) {
    return pass.workspace->Take("layer.input", i % 2, {batch.tokens, base_.config.hidden_size},
                                base_.options.dtype);
  };
  at::Tensor x_TD = input(0);
  model::Embed(base_, model::EmbeddingOf(base_, adapter_), batch.ids_T, x_TD);
  for (int64_t i = 0; i < base_.config.num_hidden_layers; ++i) {
    const at::Tensor out_TD = input(i + 1);
    model::LayerForward(pass, i, model::Keep::kNothing, x_TD, out_TD);
    x_TD = out_TD;
  }
  return x_TD;
}

std::vector<at::Tensor> StepRunner::Prefill(const std::vector<PromptPass>& prompts) {
  const data::PackedBatch packed = Pack(prompts);
  const model::DeviceBatch batch = model::Upload(packed, device_);
  // Tables of this pass alone, one row per prompt.
  const int64_t tokens = batch.tokens, n = static_cast<int64_t>(prompts.size());
  const int64_t longest = BlocksOf(packed.max_seqlen);
  at::Tensor host = HostInts({tokens + n * longest}, at::kInt, device_.is_cuda());
  int32_t* p = host.data_ptr<int32_t>();
  for (int64_t i = 0; i < n; ++i) {
    p = std::fill_n(p, prompts[i].ids->size(), static_cast<int32_t>(i));
  }
  for (const PromptPass& prompt : prompts) {
    std::copy(prompt.blocks.begin(), prompt.blocks.end(), p);
    std::fill(p + prompt.blocks.size(), p + longest, 0);
    p += longest;
  }
  const at::Tensor index = host.to(device_, /*non_blocking=*/true);
  const kernels::PagedRows rows = {index.narrow(0, 0, tokens), batch.position_ids_T,
                                   index.narrow(0, tokens, n * longest).view({n, longest}),
                                   /*rows_have_positions=*/true};
  // Writes the adapter beside standing weights, where the steps after it find it.
  pass_number_ = NextPass();
  PromptAttention attention(base_.config, &cache_, rows, batch);
  const at::Tensor x_TD = ForwardLayers(Pass(batch, prefill_, &attention, /*few_rows=*/false));
  std::vector<at::Tensor> last;
  for (int64_t i = 0; i < n; ++i) {
    last.push_back(x_TD.narrow(0, packed.cu_seqlens[i + 1] - 1, 1).clone());
  }
  return last;
}

void StepRunner::Choose(const at::Tensor& x_BD, const at::Tensor& slots_B, int64_t rows) {
  at::Tensor hidden_BD = decode_.Take("hidden", 0, x_BD.sizes(), x_BD.scalar_type());
  at::Tensor rstd_B = decode_.Take("hidden.rstd", 0, {rows}, at::kFloat);
  model::NormForward(base_.config, x_BD, base_.final_norm_D, hidden_BD, rstd_B);
  at::Tensor logits_BV = logits_BV_.narrow(0, 0, rows);
  model::LmHead head = model::HeadOf(base_, adapter_);
  if (head.stored != nullptr) {
    const int64_t n = plan::HeadScratchElements(model::PlanInputOf(base_), 0);
    head.scratch = decode_.Take("dequantized_head", 0, {n}, base_.options.dtype);
  }
  model::HeadLogits(head, hidden_BD, logits_BV);
  model::CapLogits(base_.config.logits_softcap, logits_BV);
  at::Tensor out_2B = out_2B_.narrow(0, 0, 2 * rows).view({2, rows});
  kernels::SampleTokens(logits_BV, slots_B, state_, out_2B);
}

// Uploads what the slots of new sequences hold: one copy each of integers, parameters.
void StepRunner::FillSlots(const std::vector<SequenceStart>& sequences) {
  const int64_t n = static_cast<int64_t>(sequences.size()), words = state_.seen_SW.size(1), m = tables_SM_.size(1);
  const bool pinned = device_.is_cuda();
  at::Tensor slots = HostInts({n}, at::kLong, pinned);
  at::Tensor positions = HostInts({n}, at::kInt, pinned), tables = HostInts({n, m}, at::kInt, pinned);
  at::Tensor seen = HostInts({n, words}, at::kInt, pinned).zero_();
  at::Tensor params = HostInts({n, static_cast<int64_t>(sizeof(kernels::SamplingRow))}, at::kByte, pinned);
  for (int64_t i = 0; i < n; ++i) {
    const SequenceStart& s = sequences[i];
    slots.data_ptr<int64_t>()[i] = s.slot;
    positions.data_ptr<int32_t>()[i] = static_cast<int32_t>(s.prompt_ids->size()) - 1;
    int32_t* table = tables.data_ptr<int32_t>() + i * m;
    std::fill(std::copy(s.blocks.begin(), s.blocks.end(), table), table + m, 0);
    int32_t* bits = seen.data_ptr<int32_t>() + i * words;
    for (int32_t id : *s.prompt_ids) bits[id / 32] |= static_cast<int32_t>(1u << (id % 32));
    std::memcpy(params.data_ptr<uint8_t>() + i * params.size(1), &s.sampling, sizeof s.sampling);
  }
  const auto put = [&, where = slots.to(device_, true)](at::Tensor& state, const at::Tensor& rows) {
    state.index_copy_(0, where, rows.to(device_, /*non_blocking=*/true));
  };
  put(state_.positions_S, positions);
  put(tables_SM_, tables);
  put(state_.seen_SW, seen);
  put(state_.params_SP, params);
}

StepResult StepRunner::Start(const std::vector<SequenceStart>& sequences) {
  FillSlots(sequences);
  std::vector<at::Tensor> hidden;
  const int64_t n = static_cast<int64_t>(sequences.size());
  at::Tensor slots = HostInts({n}, at::kInt, device_.is_cuda());
  for (int64_t i = 0; i < n; ++i) {
    hidden.push_back(sequences[i].hidden_1D);
    slots.data_ptr<int32_t>()[i] = sequences[i].slot;
  }
  Choose(at::cat(hidden), slots.to(device_, /*non_blocking=*/true), n);
  return Deliver(n);
}

// Batch sizes that steps are padded to, so that few graphs serve all.
int64_t StepRunner::Bucket(int64_t rows) const {
  int64_t bucket = 1;
  while (bucket < rows) bucket *= 2;
  if (bucket >= 32 && rows <= bucket * 3 / 4) bucket = bucket * 3 / 4;
  return std::min(bucket, options_.max_batch);
}

void StepRunner::DecodeBody(int64_t bucket) {
  const at::Tensor slots_B = slots_B_.narrow(0, 0, bucket);
  state_.positions_S.narrow(0, pad_slot_, 1).zero_();  // rows without sequence stay in the first block
  model::DeviceBatch batch;
  batch.tokens = bucket;
  batch.ids_T = decode_.Take("ids", 0, {bucket}, at::kInt);
  batch.position_ids_T = decode_.Take("positions", 0, {bucket}, at::kInt);
  at::index_select_out(batch.ids_T, state_.tokens_S, 0, slots_B);
  at::index_select_out(batch.position_ids_T, state_.positions_S, 0, slots_B);
  StepAttention attention(base_.config, &cache_, {slots_B, state_.positions_S, tables_SM_}, &decode_);
  Choose(ForwardLayers(Pass(batch, &decode_, &attention, FewRows(bucket))), slots_B, bucket);
}

bool StepRunner::FewRows(int64_t rows) const {
  if (!device_.is_cuda()) return rows <= kFewRowsCpu;
  return base_.options.dtype == at::kBFloat16 && rows <= kFewRowsCuda;
}

bool StepRunner::Records(int64_t bucket) const {
  if (!options_.cuda_graphs || !DecodeGraphs::Available(device_.is_cuda())) return false;
  return !base_.options.quantized() || (all_stored_ && (all_stand_ || FewRows(bucket)));
}

StepResult StepRunner::Decode(const std::vector<int32_t>& slots) {
  const int64_t bucket = device_.is_cuda() ? Bucket(static_cast<int64_t>(slots.size()))
                                           : static_cast<int64_t>(slots.size());
  std::vector<int32_t> padded = slots;
  padded.resize(static_cast<size_t>(bucket), static_cast<int32_t>(pad_slot_));
  if (padded != last_slots_) {
    at::Tensor host = HostInts({bucket}, at::kInt, device_.is_cuda());
    std::copy(padded.begin(), padded.end(), host.data_ptr<int32_t>());
    slots_B_.narrow(0, 0, bucket).copy_(host, /*non_blocking=*/true);
    last_slots_ = std::move(padded);
  }
  if (!Records(bucket)) {
    DecodeBody(bucket);
  } else {
    if (!warm_) {
      // The largest step on rows without sequence: every buffer and library workspace is there before a recording.
      const at::Tensor kept = slots_B_.clone();
      slots_B_.fill_(pad_slot_);
      DecodeBody(options_.max_batch);
      graphs_.Warm([&] { DecodeBody(options_.max_batch); });
      slots_B_.copy_(kept);
      warm_ = true;
    }
    graphs_.Run(bucket, [&] { DecodeBody(bucket); });
  }
  return Deliver(bucket);
}

StepResult StepRunner::Deliver(int64_t rows) {
  const at::Tensor out_2B = out_2B_.narrow(0, 0, 2 * rows).view({2, rows});
  if (!device_.is_cuda()) return StepResult(out_2B.clone(), device_);
  at::Tensor host = HostInts({2, rows}, at::kInt, /*pinned=*/true);
  host.copy_(out_2B, /*non_blocking=*/true);
  return StepResult(host, device_);
}

std::map<std::string, int64_t> StepRunner::Bytes() const {
  std::map<std::string, int64_t> bytes = own_prefill_.Bytes();
  for (const auto& [name, n] : decode_.Bytes()) bytes["decode." + name] += n;
  bytes["kv_cache"] = cache_.bytes();
  bytes["decode.logits"] = static_cast<int64_t>(logits_BV_.nbytes());
  for (const at::Tensor* t : {&state_.tokens_S, &state_.positions_S, &state_.seen_SW, &state_.params_SP, &tables_SM_,
                              &slots_B_, &out_2B_}) {
    bytes["decode.state"] += static_cast<int64_t>(t->nbytes());
  }
  return bytes;
}

}  // namespace finetuned::generate
