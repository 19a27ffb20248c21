// The engine takes exactly the buffers that the plan lists.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>

#include "engine/generate/generator.h"
#include "engine/model/decoder.h"
#include "engine/plan/memory_plan.h"
#include "engine/plan/rollout.h"
#include "tests/bench/engine/random_model.h"

namespace finetuned::model {
namespace {

struct Variant {
  bool nf4, checkpointing, tied;
  int64_t rank;
  std::vector<std::string> targets;
  double dropout = 0;
  int64_t piece_rows = 0, keep_all = 0, keep_attention = 0;
  bool offload = false;
  plan::MatmulPrecision precision = plan::MatmulPrecision::kCompute;
  int64_t standing = -1;
  plan::BaseFormat format = plan::BaseFormat::kNf4;  // where nf4
  bool dora = false, patterns = false;
  double int8_threshold = 0;
  std::vector<std::string> modules_to_save = {};
  bool nf4_lm_head = false;
  const char* parts = "";  // of a family beside Llama's
  plan::Biases biases = plan::Biases::kNone;
};

void SetParts(const std::string& family, format::ModelConfig* config) {
  if (family == "gemma3") {
    config->block = format::BlockKind::kPostNorms;
    config->norm = format::NormKind::kRmsFloat;
    config->qk_norm = format::QkNorm::kShared;
    config->local_rope_theta = 10000;
    config->layer_kinds = {{8, true, true}, {8, true, true}, {}};
  } else if (family == "cohere") {
    config->block = format::BlockKind::kParallel;
    config->norm = format::NormKind::kLayer;
    config->qk_norm = format::QkNorm::kPerHead;
    config->logits_multiplier = 0.5;
  } else if (family == "phi3") {
    config->fused_projections = config->attention_bias = true;
  }
}

// A small model with an adapter, and what the plan says of it.
class PlannedBuffers : public testing::TestWithParam<Variant> {
 protected:
  PlannedBuffers() {
    const Variant v = GetParam();
    config_ = bench::Shape("smollm2-135m");
    config_.num_hidden_layers = 3;
    config_.vocab_size = 1000;
    config_.tie_word_embeddings = v.tied;
    SetParts(v.parts, &config_);
    base_ = bench::RandomModel(config_, {.base = v.nf4 ? v.format : plan::BaseFormat::kCompute,
                                         .precision = v.precision,
                                         .int8_threshold = v.int8_threshold,
                                         .nf4_lm_head = v.nf4_lm_head});
    lora::Options options{v.rank, 8, v.dropout, false, *lora::ParseTargets(v.targets)};
    options.use_dora = v.dora;
    options.modules_to_save = v.modules_to_save;
    options.biases = v.biases;
    if (v.patterns) options.rank_pattern = {{"k_proj", 2}, {"mlp\\..*", 5}};
    adapter_ = std::make_unique<lora::Adapter>(config_, options, at::kCPU, at::kFloat);
    decoder_ = std::make_unique<Decoder>(*base_, *adapter_,
                                         DecoderOptions{.recompute_activations = v.checkpointing,
                                                        .keep_all_layers = v.keep_all,
                                                        .keep_attention_layers = v.keep_attention,
                                                        .offload_inputs = v.offload,
                                                        .piece_rows = v.piece_rows,
                                                        .standing_layers = v.standing});
    input_ = PlanInputOf(*base_);
    input_.lora_rank = v.rank;
    input_.biases = v.biases;
    input_.lora_dropout = v.dropout > 0;
    input_.target_modules = v.targets;
    input_.use_dora = v.dora;
    for (const std::string& module : v.modules_to_save) {
      input_.train_embed_tokens |= module == "embed_tokens";
      input_.train_lm_head |= module == "lm_head";
    }
    input_.rank_pattern = options.rank_pattern;
    input_.mixed_scaling = v.patterns;
    input_.max_seq_length = 24;
    input_.activation_checkpointing = v.checkpointing;
    input_.activation_offload = v.offload;
    input_.standing_layers = v.standing;
    input_.keep_all_layers = v.keep_all;
    input_.keep_attention_layers = v.keep_attention;
    input_.piece_rows = v.piece_rows;
  }

  // Planned bytes by name; `component` empty: of all.
  std::map<std::string, int64_t> Planned(const std::string& component = "") const {
    std::map<std::string, int64_t> planned;
    for (const plan::Buffer& b : plan::PlanMemory(input_).buffers) {
      if (component.empty() || b.component == component) planned[b.name] += b.bytes;
    }
    return planned;
  }

  // The plan cannot know how many tokens are targets, so it counts all: two documents end without one.
  void ExpectWorkspaceAsPlanned() const { ExpectAsPlanned(decoder_->workspace()); }
  void ExpectAsPlanned(const Workspace& workspace) const {
    const std::map<std::string, int64_t> per_target = {
        {"loss.per_target", 8},   {"loss.correct", 1},      {"log_probs.per_target", 2 * 20},
        {"log_probs.correct", 2}, {"logits_chunk", 4 * 1000}, {"loss.hidden", 4 * 576}};
    std::map<std::string, int64_t> planned = Planned();
    for (const auto& [name, bytes] : workspace.Bytes()) {
      const auto found = per_target.find(name);
      EXPECT_EQ(bytes, planned[name] - (found == per_target.end() ? 0 : 2 * found->second)) << name;
    }
  }

  DeviceBatch TwoDocuments() const { return Upload(bench::RandomBatch(config_, 2, 24), at::kCPU); }

  c10::InferenceMode no_autograd_;
  format::ModelConfig config_;
  std::shared_ptr<BaseModel> base_;
  std::unique_ptr<lora::Adapter> adapter_;
  std::unique_ptr<Decoder> decoder_;
  plan::PlanInput input_;
};

TEST_P(PlannedBuffers, AreThoseTheEngineTakes) {
  at::Tensor sums = at::zeros({kLossSums}, at::kDouble);
  decoder_->ForwardBackward(TwoDocuments(), at::ones({1}), 1, 0, sums);
  input_.micro_batch_size = 2;
  ExpectWorkspaceAsPlanned();
  int64_t weights = 0;
  for (const auto& [name, bytes] : Planned("weights")) weights += bytes;
  for (const at::Tensor& table : {base_->inv_freq, base_->local_inv_freq}) {
    if (table.defined()) weights += static_cast<int64_t>(table.nbytes());
  }
  EXPECT_EQ(base_->bytes(), weights);
  EXPECT_EQ(static_cast<int64_t>(adapter_->parameters().nbytes()), Planned()["lora_master"]);
  EXPECT_EQ(static_cast<int64_t>(adapter_->gradients().nbytes()), Planned()["lora_gradients"]);
}

TEST_P(PlannedBuffers, OfLogProbabilitiesAreThoseTheEngineTakes) {
  const DeviceBatch pair = TwoDocuments();
  const LogProbOptions options = {.mean_logits = true, .log_sum_squares = true};
  decoder_->LogProbs(pair, options, AdapterUse::kOff);
  decoder_->ForwardLogProbs(pair, options, DropoutPass{1, 0});
  decoder_->BackwardLogProbs(pair, options, at::ones({pair.targets}), DropoutPass{1, 0});
  input_.method = plan::Method::kDpo;  // one row is a pair
  input_.micro_batch_size = 1;
  ExpectWorkspaceAsPlanned();
}

// KTO's estimate of the KL looks at pairs of prompts and answers that do not belong together, with and without adapter.
TEST_P(PlannedBuffers, OfKtoAreThoseTheEngineTakes) {
  const DeviceBatch batch = TwoDocuments();
  decoder_->LogProbs(batch, {}, AdapterUse::kOn);
  decoder_->LogProbs(batch, {}, AdapterUse::kOff);
  decoder_->LogProbs(batch, {}, AdapterUse::kOff);
  decoder_->ForwardLogProbs(batch, {.mean_logits = true}, DropoutPass{1, 0});
  decoder_->BackwardLogProbs(batch, {.mean_logits = true}, at::ones({batch.targets}), DropoutPass{1, 0});
  input_.method = plan::Method::kKto;
  input_.micro_batch_size = 2;
  ExpectWorkspaceAsPlanned();
}

// Generation takes its own buffers, and for prompts those of the decoder.
TEST_P(PlannedBuffers, OfGrpoAreThoseTheEngineTakes) {
  const plan::Rollout rollout = plan::RolloutOf(4, 24, 24);
  generate::GeneratorOptions options;
  options.max_batch = rollout.sequences;
  options.cache_tokens = rollout.sequences * rollout.max_tokens;
  options.max_sequence_tokens = rollout.max_tokens;
  options.prefill_tokens = GetParam().checkpointing && GetParam().piece_rows > 0 ? GetParam().piece_rows : 48;
  options.workspace = &decoder_->workspace();
  options.standing = decoder_->standing();
  generate::Generator generator(*base_, adapter_.get(), options);
  generate::Request request;
  request.prompt_ids.assign(16, 1);
  request.num_samples = 4;
  request.sampling.max_new_tokens = 3;
  ASSERT_TRUE(generator.Generate({request}).ok());
  const DeviceBatch batch = TwoDocuments();
  decoder_->LogProbs(batch, {}, AdapterUse::kOff);
  decoder_->ForwardLogProbs(batch, {}, DropoutPass{1, 0});
  decoder_->BackwardLogProbs(batch, {}, at::ones({batch.targets}), DropoutPass{1, 0});
  input_.method = plan::Method::kGrpo;
  input_.micro_batch_size = 2;
  input_.rollout = rollout;
  ExpectWorkspaceAsPlanned();
  // What only a GPU takes is planned for the variant that pretends to be on one.
  std::map<std::string, int64_t> planned = Planned();
  for (const auto& [name, bytes] : generator.Bytes()) EXPECT_EQ(bytes, planned[name]) << name;
}

TEST_P(PlannedBuffers, OfEvaluationAreThoseTheEngineTakes) {
  at::Tensor sums = at::zeros({kLossSums}, at::kDouble);
  Decoder plain(*base_, *adapter_, DecoderOptions{.standing_layers = 0});
  plain.Evaluate(TwoDocuments(), sums);
  decoder_.reset();
  input_.method = plan::Method::kEvaluate;
  input_.on_gpu = false;
  input_.activation_checkpointing = input_.lora_dropout = false;
  input_.standing_layers = 0;
  input_.micro_batch_size = 2;
  ExpectAsPlanned(plain.workspace());
}

INSTANTIATE_TEST_SUITE_P(Variants, PlannedBuffers,
                         testing::Values(Variant{true, false, true, 16, {}}, Variant{true, true, false, 3, {}},
                                         Variant{true, true, true, 4, {"v_proj", "o_proj"}, 0.1},
                                         Variant{false, false, true, 4, {"q_proj", "down_proj"}},
                                         Variant{false, true, false, 8, {"o_proj", "up_proj"}},
                                         Variant{true, true, false, 4, {}, 0, /*piece_rows=*/20},
                                         Variant{true, true, false, 4, {}, 0.1, 20, 0, 0, /*offload=*/true},
                                         Variant{true, true, true, 4, {}, 0, 20, /*keep_all=*/1, 1, true},
                                         Variant{true, true, true, 4, {}, 0, 20, 0, /*keep_attention=*/3},
                                         Variant{true, true, true, 4, {}, 0, 20, 0, 0, true, plan::MatmulPrecision::kFp8},
                                         Variant{true, false, true, 4, {}, 0, 0, 0, 0, false, plan::MatmulPrecision::kInt8},
                                         Variant{.nf4 = true, .tied = true, .rank = 4, .format = plan::BaseFormat::kInt8},
                                         Variant{.nf4 = true, .tied = true, .rank = 4, .format = plan::BaseFormat::kInt8, .int8_threshold = 6},
                                         Variant{.nf4 = true, .checkpointing = true, .tied = true, .rank = 4, .format = plan::BaseFormat::kFp4},
                                         Variant{.nf4 = true, .tied = false, .rank = 4, .modules_to_save = {"embed_tokens", "lm_head"}},
                                         Variant{.nf4 = true, .tied = true, .rank = 4, .dora = true},
                                         Variant{.nf4 = true, .checkpointing = true, .tied = true, .rank = 4, .dropout = 0.1, .dora = true},
                                         Variant{.nf4 = true, .checkpointing = true, .tied = true, .rank = 4, .piece_rows = 20, .format = plan::BaseFormat::kFp8, .dora = true, .patterns = true},
                                         Variant{.nf4 = true, .tied = true, .rank = 4, .precision = plan::MatmulPrecision::kCompute, .standing = 3},
                                         Variant{.nf4 = true, .checkpointing = true, .rank = 4, .piece_rows = 20, .offload = true, .nf4_lm_head = true},
                                         Variant{.nf4 = true, .rank = 4, .standing = 3, .nf4_lm_head = true},
                                         Variant{.nf4 = true, .checkpointing = true, .rank = 4, .piece_rows = 20, .precision = plan::MatmulPrecision::kFp8, .standing = 1},
                                         Variant{.rank = 4, .nf4_lm_head = true},
                                         Variant{.nf4 = true, .tied = true, .rank = 4, .parts = "gemma3"},
                                         Variant{.nf4 = true, .checkpointing = true, .tied = true, .rank = 4, .piece_rows = 20, .parts = "gemma3"},
                                         Variant{.checkpointing = true, .tied = true, .rank = 4, .piece_rows = 20, .keep_attention = 2, .parts = "cohere"},
                                         Variant{.nf4 = true, .rank = 4, .parts = "phi3"},
                                         Variant{.nf4 = true, .rank = 4, .targets = {"o_proj"}, .parts = "phi3", .biases = plan::Biases::kAll}));

}  // namespace
}  // namespace finetuned::model
