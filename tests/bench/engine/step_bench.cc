// Times whole optimizer steps (forward, backward, clipping, update) of a model with random weights and prints
// one JSON line: tokens per second, peak bytes, the time the frozen products alone take in the same run, and,
// with --profile, the time of each kind of kernel.
//
// step_bench [--shape llama-3.1-8b] [--documents 4] [--length 2048] [--rank 16] [--checkpointing]
//            [--format nf4|fp4|int8|fp8|bf16] [--precision bf16|fp8|int8] [--steps 5] [--profile] [--device cuda|cpu] [--cap-gib N]
//            [--dora] [--int8-threshold X]
//            [--standing LAYERS] [--nf4-head]
//            [--load FOLDER]  (a stored model instead of random weights; --shape names it in the output only)
// Started once per GPU with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set, it also times the exchange of the
// gradients: "alone" without, "after" behind the whole backward pass, "overlapped" beside it.
// --steps 0: only the first step is run and timed. With --checkpointing: [--keep-all N] [--keep-attention N] (layers, see DecoderOptions) [--offload] [--pieces ROWS]
#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "engine/format/model_source.h"
#include "engine/model/base_model.h"
#include "engine/model/decoder.h"
#include "engine/plan/memory_plan.h"
#include "engine/plan/precision.h"
#include "engine/train/device.h"
#include "engine/train/gradient_sum.h"
#include "engine/train/optimizer.h"
#include "engine/train/world.h"
#include "kernels/finite.h"
#include "nlohmann/json.hpp"
#include "tests/bench/engine/random_model.h"

namespace finetuned::bench {
namespace {

struct Arguments {
  std::string shape = "llama-3.1-8b", format = "nf4", device = "cuda", precision = "bf16", load;
  int64_t documents = 4, length = 2048, rank = 16, steps = 5, keep_all = 0, keep_attention = 0, pieces = 0, standing = -1;
  double cap_gib = 0, int8_threshold = 0;
  bool checkpointing = false, profile = false, offload = false, dora = false, nf4_head = false;
};

[[noreturn]] void Usage(const char* what) {
  std::fprintf(stderr, "step_bench: %s; see the head of step_bench.cc\n", what);
  std::exit(64);
}

Arguments Parse(int argc, char** argv) {
  Arguments a;
  const std::map<std::string, int64_t*> numbers = {
      {"--documents", &a.documents}, {"--length", &a.length}, {"--rank", &a.rank}, {"--steps", &a.steps},
      {"--keep-all", &a.keep_all},   {"--keep-attention", &a.keep_attention},
      {"--pieces", &a.pieces},       {"--standing", &a.standing}};
  const std::map<std::string, std::string*> texts = {
      {"--shape", &a.shape}, {"--format", &a.format}, {"--device", &a.device}, {"--precision", &a.precision},
      {"--load", &a.load}};
  const std::map<std::string, bool*> flags = {{"--checkpointing", &a.checkpointing}, {"--profile", &a.profile},
                                              {"--offload", &a.offload}, {"--dora", &a.dora}, {"--nf4-head", &a.nf4_head}};
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (flags.contains(name)) {
      *flags.at(name) = true;
      continue;
    }
    if (++i == argc) Usage("a value is missing");
    if (numbers.contains(name)) {
      *numbers.at(name) = std::stoll(argv[i]);
    } else if (texts.contains(name)) {
      *texts.at(name) = argv[i];
    } else if (name == "--cap-gib") {
      a.cap_gib = std::stod(argv[i]);
    } else if (name == "--int8-threshold") {
      a.int8_threshold = std::stod(argv[i]);
    } else {
      Usage(("unknown argument " + name).c_str());
    }
  }
  return a;
}

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void Wait(at::Device device) {
  if (device.is_cuda()) at::empty({1}, at::device(device)).cpu();  // in stream order
}

// One job's machinery around one batch that never changes.
class Stepper {
 public:
  Stepper(const Arguments& a, const model::BaseModel& base, train::World* world)
      : device_(base.options.device),
        packed_(RandomBatch(base.config, a.documents, a.length)),
        adapter_(base.config,
                 {.rank = a.rank, .alpha = 2.0 * static_cast<double>(a.rank), .targets = *lora::ParseTargets({}), .use_dora = a.dora},
                 device_, base.options.dtype),
        optimizer_({}, &adapter_),
        gradient_sum_(world, &adapter_),
        decoder_(base, adapter_,
                 {.recompute_activations = a.checkpointing,
                  .keep_all_layers = a.keep_all,
                  .keep_attention_layers = a.keep_attention,
                  .offload_inputs = a.offload,
                  .piece_rows = a.pieces,
                  .standing_layers = a.standing,
                  .layer_done = [this](int64_t layer) { gradient_sum_.LayerDone(layer); }}) {
    adapter_.Initialize(1);
    decoder_.TakeFromBase();
  }

  // As Trainer::TrainStep: one wait, at the end.
  double Step() {
    const auto f32 = at::device(device_).dtype(at::kFloat);
    adapter_.ZeroGradients();
    at::Tensor sums = at::zeros({model::kLossSums}, at::device(device_).dtype(at::kDouble));
    gradient_sum_.Begin(exchange == Exchange::kOverlapped ? 1 : 0);
    const at::Tensor scale = at::full({1}, 1.0 / static_cast<double>(packed_.num_targets), f32);
    decoder_.ForwardBackward(model::Upload(packed_, device_), scale, 1, static_cast<uint64_t>(step_), sums);
    if (exchange != Exchange::kNone) gradient_sum_.Finish();
    at::Tensor norm = at::empty({1}, f32), clip = at::empty({1}, f32), skip = at::empty({1}, f32);
    kernels::GradNormAndScale({adapter_.gradients()}, 1.0, norm, clip, skip);
    optimizer_.Step(1e-4, ++step_, clip, skip);
    return sums.cpu()[0].item<double>() / static_cast<double>(packed_.num_targets);
  }

  enum class Exchange { kNone, kAfter, kOverlapped };
  Exchange exchange = Exchange::kNone;
  int64_t gradient_bytes() const { return static_cast<int64_t>(adapter_.parameters().nbytes()); }
  int64_t tokens() const { return static_cast<int64_t>(packed_.input_ids.size()); }
  const model::Decoder& decoder() const { return decoder_; }

 private:
  const at::Device device_;
  const data::PackedBatch packed_;
  lora::Adapter adapter_;
  train::Optimizer optimizer_;
  train::GradientSum gradient_sum_;
  model::Decoder decoder_;
  int64_t step_ = 0;
};

double MedianSeconds(int64_t times, const std::function<void()>& call) {
  std::vector<double> seconds;
  for (int64_t i = 0; i < times; ++i) {
    const double start = Now();
    call();
    seconds.push_back(Now() - start);
  }
  std::nth_element(seconds.begin(), seconds.begin() + times / 2, seconds.end());
  return seconds[times / 2];
}

// Seconds of the frozen products of one step, forward and input gradient, alone: dense weights, no adapter.
double ProductSeconds(const format::ModelConfig& m, int64_t tokens, at::Device device, at::ScalarType dtype) {
  const auto options = at::device(device).dtype(dtype);
  const auto pair = [&](int64_t in, int64_t out, int64_t rows) {
    const at::Tensor x = at::randn({rows, in}, options), w = at::randn({out, in}, options);
    at::Tensor y = at::empty({rows, out}, options), dx = at::empty({rows, in}, options);
    const auto both = [&] {
      for (int i = 0; i < 8; ++i) {
        at::mm_out(y, x, w.t());
        at::mm_out(dx, y, w);
      }
      Wait(device);
    };
    both();
    return MedianSeconds(3, both) / 8;
  };
  const double layer = pair(m.hidden_size, m.q_size() + 2 * m.kv_size(), tokens) +
                       pair(m.q_size(), m.hidden_size, tokens) +
                       pair(m.hidden_size, 2 * m.intermediate_size, tokens) +
                       pair(m.intermediate_size, m.hidden_size, tokens);
  const int64_t chunk = std::min<int64_t>(tokens, 1024);
  return layer * static_cast<double>(m.num_hidden_layers) +
         pair(m.hidden_size, m.vocab_size, chunk) * static_cast<double>(tokens) / static_cast<double>(chunk);
}

std::shared_ptr<model::BaseModel> Load(const std::string& path, const model::LoadOptions& options) {
  const auto source = format::OpenModel(path);
  if (!source.ok()) Usage(std::string(source.status().message()).c_str());
  const auto base = model::LoadBaseModel(**source, path, options);
  if (!base.ok()) Usage(std::string(base.status().message()).c_str());
  return *base;
}

plan::PlanInput PlanOf(const Arguments& a, const model::BaseModel& base) {
  plan::PlanInput p = model::PlanInputOf(base);
  p.lora_rank = a.rank;
  p.micro_batch_size = a.documents;
  p.max_seq_length = a.length;
  p.activation_checkpointing = a.checkpointing;
  p.activation_offload = a.offload;
  p.keep_all_layers = a.keep_all;
  p.piece_rows = a.pieces;
  p.standing_layers = a.standing;
  p.keep_attention_layers = a.keep_attention;
  p.use_dora = a.dora;
  return p;
}

const char* KindOf(const std::string& kernel) {
  static const std::vector<std::pair<const char*, std::regex>> kinds = {
      {"attention", std::regex("flash|fmha|attention|sdpa")},
      {"codes", std::regex("quantize_rows|scale_sums")},
      {"dequantization", std::regex("nf4|low_rank_border")},
      {"optimizer", std::regex("adamw|grad_norm|finite")},
      {"loss", std::regex("cross_entropy")},
      {"copies", std::regex("Memcpy|Memset")},
      {"product", std::regex("low_rank_gradients|gemm|cutlass|nvjet|xmma|gemv|splitK|cublas")},
      {"norm, rope, swiglu", std::regex("gate_low_rank|rms_norm|rope|swiglu|embedding|dropout")},
  };
  for (const auto& [kind, pattern] : kinds) {
    if (std::regex_search(kernel, pattern)) return kind;
  }
  return "other elementwise";
}

// Milliseconds that no kernel covers, by the kernels before and after: the ten longest sums.
nlohmann::json Gaps(std::vector<std::pair<std::pair<int64_t, int64_t>, std::string>> spans) {
  std::sort(spans.begin(), spans.end());
  std::map<std::string, std::pair<double, int>> gaps;
  int64_t busy_until = spans.empty() ? 0 : spans[0].first.first;
  std::string last = "start";
  double idle = 0;
  for (const auto& [span, name] : spans) {
    if (span.first > busy_until) {
      const double ms = static_cast<double>(span.first - busy_until) * 1e-6;
      auto& [sum, count] = gaps[last.substr(0, 60) + " > " + name.substr(0, 60)];
      sum += ms;
      ++count;
      idle += ms;
    }
    if (span.second > busy_until) busy_until = span.second, last = name;
  }
  std::vector<std::pair<std::string, std::pair<double, int>>> longest(gaps.begin(), gaps.end());
  std::sort(longest.begin(), longest.end(), [](const auto& a, const auto& b) { return a.second.first > b.second.first; });
  nlohmann::json out = {{"idle_ms", idle}, {"launches", spans.size()}};
  for (size_t i = 0; i < std::min<size_t>(10, longest.size()); ++i) {
    out["gaps"].push_back({longest[i].first, longest[i].second.first, longest[i].second.second});
  }
  return out;
}

// Device milliseconds by kind, and of the 30 longest kernels, over one step.
nlohmann::json Profile(Stepper& stepper) {
  namespace prof = torch::autograd::profiler;
  const prof::ProfilerConfig config(prof::ProfilerState::KINETO);
  const std::set<prof::ActivityType> activities = {prof::ActivityType::CUDA};
  prof::prepareProfiler(config, activities);
  prof::enableProfiler(config, activities);
  const double start = Now();
  stepper.Step();
  const double wall = Now() - start;
  const auto result = prof::disableProfiler();
  std::map<std::string, double> kinds;
  std::map<std::string, std::pair<double, int>> kernels;
  std::vector<std::pair<std::pair<int64_t, int64_t>, std::string>> spans;
  double busy = 0;
  for (const auto& event : result->events()) {
    if (event.deviceType() != c10::DeviceType::CUDA) continue;
    const double ms = static_cast<double>(event.durationNs()) * 1e-6;
    kinds[KindOf(event.name())] += ms;
    auto& [sum, count] = kernels[event.name().substr(0, 110)];
    sum += ms;
    ++count;
    busy += ms;
    spans.push_back({{event.startNs(), event.startNs() + event.durationNs()}, event.name()});
  }
  std::vector<std::pair<std::string, std::pair<double, int>>> longest(kernels.begin(), kernels.end());
  std::sort(longest.begin(), longest.end(),
            [](const auto& a, const auto& b) { return a.second.first > b.second.first; });
  nlohmann::json out = {{"ms_by_kind", kinds}, {"step_ms_profiled", wall * 1e3}, {"busy_ms", busy}};
  for (size_t i = 0; i < std::min<size_t>(30, longest.size()); ++i) {
    out["kernels"].push_back({longest[i].first, longest[i].second.first, longest[i].second.second});
  }
  out.update(Gaps(std::move(spans)));
  return out;
}

int Number(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? 0 : std::atoi(value);
}

std::unique_ptr<train::World> Others(at::Device device) {
  if (Number("WORLD_SIZE") < 2) return nullptr;
  return train::JoinWorld({Number("RANK"), Number("WORLD_SIZE"), std::getenv("MASTER_ADDR"), Number("MASTER_PORT")},
                          device);
}

// Milliseconds of a step with each kind of exchange.
nlohmann::json TimeExchange(Stepper& stepper, train::World& world, int64_t steps) {
  nlohmann::json out = {{"processes", world.size()}, {"gradient_bytes", stepper.gradient_bytes()}};
  using Exchange = Stepper::Exchange;
  for (const auto& [name, exchange] : std::map<std::string, Exchange>{
           {"alone", Exchange::kNone}, {"after", Exchange::kAfter}, {"overlapped", Exchange::kOverlapped}}) {
    stepper.exchange = exchange;
    const auto step = [&] {
      stepper.Step();
      world.AwaitSums();
    };
    step();
    out[name + "_ms"] = 1e3 * MedianSeconds(std::max<int64_t>(1, steps), step);
  }
  return out;
}

int Main(int argc, char** argv) {
  const Arguments a = Parse(argc, argv);
  c10::InferenceMode no_autograd;
  const at::Device device = a.device == "cpu" ? at::Device(at::kCPU) : at::Device(at::kCUDA, 0);
  const model::LoadOptions options = {.device = device,
                                      .dtype = device.is_cuda() ? at::kBFloat16 : at::kFloat,
                                      .base = plan::ParseBaseFormat(a.format),
                                      .precision = plan::ParsePrecision(a.precision),
                                      .int8_threshold = a.int8_threshold,
                                      .nf4_lm_head = a.nf4_head};
  const double start = Now();
  const format::ModelConfig config = Shape(a.shape);
  train::CapMemory(device, static_cast<int64_t>(a.cap_gib * (1 << 30)));
  nlohmann::json out = {{"shape", a.shape},   {"documents", a.documents},
                        {"length", a.length}, {"rank", a.rank},
                        {"format", a.format}, {"precision", a.precision}, {"dora", a.dora}, {"int8_threshold", a.int8_threshold}, {"checkpointing", a.checkpointing},
                        {"keep_all", a.keep_all}, {"keep_attention", a.keep_attention},
                        {"offload", a.offload}, {"pieces", a.pieces}, {"standing", a.standing}, {"nf4_head", a.nf4_head}};
  const auto base = a.load.empty() ? RandomModel(config, options) : Load(a.load, options);
  Wait(device);
  out["seconds_to_base"] = Now() - start;
  const std::unique_ptr<train::World> world = Others(device);
  Stepper stepper(a, *base, world.get());
  out["base_bytes"] = base->bytes();
  train::ReleaseCachedMemory(device);
  train::ResetPeak(device);
  double loss = 0;
  const auto step = [&] { loss = stepper.Step(); };
  double seconds = MedianSeconds(1, step);
  out["seconds_to_first_step"] = Now() - start;
  if (a.steps > 0) {
    train::ReleaseCachedMemory(device);
    train::ResetPeak(device);
    step();
    seconds = MedianSeconds(a.steps, step);
  }
  out["loss"] = loss;
  out["step_ms"] = seconds * 1e3;
  out["tokens_per_second"] = static_cast<double>(stepper.tokens()) / seconds;
  std::map<std::string, double> memory;
  train::AddMemory(device, &memory);
  for (const auto& [name, value] : memory) out[name] = value;
  for (const auto& [name, bytes] : stepper.decoder().workspace().Bytes()) out["workspace"][name] = bytes;
  out["host_bytes"] = stepper.decoder().host_bytes();
  out["predicted_bytes"] = plan::PlanMemory(PlanOf(a, *base)).total();
  if (world != nullptr) out["exchange"] = TimeExchange(stepper, *world, a.steps);
  if (a.profile) out["profile"] = Profile(stepper);
  if (a.cap_gib == 0) {
    const double products = ProductSeconds(base->config, stepper.tokens(), device, options.dtype);
    out["products_alone_ms"] = products * 1e3;
    out["share_of_products"] = products / seconds;
  }
  std::printf("%s\n", out.dump().c_str());
  return 0;
}

}  // namespace
}  // namespace finetuned::bench

int main(int argc, char** argv) {
  try {
    return finetuned::bench::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "step_bench: %s\n", error.what());
    return 1;
  }
}
