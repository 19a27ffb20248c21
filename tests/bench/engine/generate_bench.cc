// Times generation of a model with random weights and prints one JSON line: tokens per second with and without the
// prompts' pass, milliseconds of a decode step, and bytes of the cache.
//
// generate_bench [--shape llama-3.1-8b] [--format nf4|fp4|int8|fp8|bf16] [--sequences 64] [--samples 1] [--prompt 128]
//                [--tokens 64] [--rank 16] [--temperature 1.0] [--top-p 1.0] [--repeat 3] [--no-graphs]
//                [--standing LAYERS] [--device cuda|cpu]
// --samples: sequences that share a prompt; rank 0: no adapter; --standing: as in a job that trains the same adapter. The first run (recording graphs) is reported apart.
#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "engine/generate/generator.h"
#include "engine/model/decoder.h"
#include "nlohmann/json.hpp"
#include "tests/bench/engine/random_model.h"

namespace finetuned::bench {
namespace {

struct Arguments {
  std::string shape = "llama-3.1-8b", format = "nf4", device = "cuda";
  int64_t sequences = 64, samples = 1, prompt = 128, tokens = 64, rank = 16, repeat = 3, standing = 0;
  double temperature = 1, top_p = 1;
  bool graphs = true;
};

[[noreturn]] void Usage(const std::string& what) {
  std::fprintf(stderr, "generate_bench: %s; see the head of generate_bench.cc\n", what.c_str());
  std::exit(64);
}

Arguments Parse(int argc, char** argv) {
  Arguments a;
  const std::map<std::string, int64_t*> integers = {
      {"--sequences", &a.sequences}, {"--samples", &a.samples}, {"--prompt", &a.prompt},
      {"--tokens", &a.tokens},       {"--rank", &a.rank},       {"--repeat", &a.repeat},
      {"--standing", &a.standing}};
  const std::map<std::string, double*> reals = {{"--temperature", &a.temperature}, {"--top-p", &a.top_p}};
  const std::map<std::string, std::string*> texts = {
      {"--shape", &a.shape}, {"--format", &a.format}, {"--device", &a.device}};
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--no-graphs") {
      a.graphs = false;
      continue;
    }
    if (++i == argc) Usage("a value is missing");
    if (integers.contains(name)) {
      *integers.at(name) = std::stoll(argv[i]);
    } else if (reals.contains(name)) {
      *reals.at(name) = std::stod(argv[i]);
    } else if (texts.contains(name)) {
      *texts.at(name) = argv[i];
    } else {
      Usage("unknown argument " + name);
    }
  }
  if (a.samples < 1 || a.sequences % a.samples != 0) Usage("--sequences must be a multiple of --samples");
  return a;
}

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::vector<generate::Request> Requests(const Arguments& a, int64_t vocabulary) {
  std::mt19937 random(7);
  std::uniform_int_distribution<int32_t> token(0, static_cast<int32_t>(vocabulary - 1));
  std::vector<generate::Request> requests(static_cast<size_t>(a.sequences / a.samples));
  uint64_t seed = 1;
  for (generate::Request& r : requests) {
    for (int64_t t = 0; t < a.prompt; ++t) r.prompt_ids.push_back(token(random));
    r.num_samples = a.samples;
    r.sampling.max_new_tokens = a.tokens;
    r.sampling.temperature = a.temperature;
    r.sampling.top_p = a.top_p;
    r.sampling.seed = seed++;
  }
  return requests;
}

// Seconds of a run in all, and from the last sequence's first token to the end.
struct Times {
  double total = 0, decode = 0;
};

Times RunOnce(generate::Generator& generator, const std::vector<generate::Request>& requests) {
  double started = 0;
  const double begin = Now();
  const auto got = generator.Generate(requests, [&](const generate::TokenEvent& e) {
    if (e.index == 0) started = Now();
    return true;
  });
  const double end = Now();
  if (!got.ok()) Usage(std::string(got.status().message()));
  return {end - begin, end - started};
}

int Main(int argc, char** argv) {
  const Arguments a = Parse(argc, argv);
  c10::InferenceMode no_autograd;
  const bool gpu = a.device == "cuda";
  const model::LoadOptions load{gpu ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU),
                                gpu ? at::kBFloat16 : at::kFloat, plan::ParseBaseFormat(a.format)};
  const format::ModelConfig config = Shape(a.shape);
  const auto base = RandomModel(config, load);
  std::unique_ptr<lora::Adapter> adapter;
  if (a.rank > 0) {
    lora::Options options{a.rank, 2.0 * static_cast<double>(a.rank), 0, false, *lora::ParseTargets({"all-linear"})};
    adapter = std::make_unique<lora::Adapter>(config, options, load.device, load.dtype);
    adapter->Initialize(1);
    adapter->parameters().add_(1e-3);
    adapter->RefreshCompute();
  }
  const auto requests = Requests(a, config.vocab_size);
  generate::GeneratorOptions options;
  options.max_batch = a.sequences;
  options.max_sequence_tokens = a.prompt + a.tokens;
  options.cache_tokens = a.sequences * (a.prompt + a.tokens + 32);
  options.prefill_tokens = 8192;
  options.cuda_graphs = a.graphs;
  std::optional<model::Decoder> decoder;
  if (a.standing > 0 && adapter == nullptr) Usage("--standing needs an adapter");
  if (a.standing > 0) {
    decoder.emplace(*base, *adapter, model::DecoderOptions{.standing_layers = a.standing});
    options.workspace = &decoder->workspace();
    options.standing = decoder->standing();
  }
  generate::Generator generator(*base, adapter.get(), options);
  const double first = RunOnce(generator, requests).total;
  Times best{1e30, 1e30};
  for (int64_t i = 0; i < a.repeat; ++i) {
    const Times t = RunOnce(generator, requests);
    if (t.total < best.total) best = t;
  }
  const double generated = static_cast<double>(a.sequences * a.tokens);
  const double steps = static_cast<double>(std::max<int64_t>(1, a.tokens - 1));
  nlohmann::ordered_json out = {{"shape", a.shape},
                                {"format", a.format},
                                {"sequences", a.sequences},
                                {"samples_per_prompt", a.samples},
                                {"prompt_tokens", a.prompt},
                                {"new_tokens", a.tokens},
                                {"rank", a.rank},
                                {"graphs", a.graphs},
                                {"standing", a.standing},
                                {"first_run_s", first},
                                {"total_s", best.total},
                                {"tokens_per_second", generated / best.total},
                                {"decode_tokens_per_second", static_cast<double>(a.sequences) * steps / best.decode},
                                {"step_ms", 1000 * best.decode / steps},
                                {"kv_cache_bytes", generator.Bytes().at("kv_cache")}};
  std::printf("%s\n", out.dump().c_str());
  return 0;
}

}  // namespace
}  // namespace finetuned::bench

int main(int argc, char** argv) { return finetuned::bench::Main(argc, argv); }
