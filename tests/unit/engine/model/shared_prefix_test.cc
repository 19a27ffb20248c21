// Documents that have their prompt once against the same documents one after another.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <memory>

#include "engine/data/shuffle.h"
#include "engine/model/decoder.h"
#include "engine/plan/memory_plan.h"
#include "tests/bench/engine/random_model.h"

namespace finetuned::model {
namespace {

constexpr int64_t kVocabulary = 500;

// Three groups: answers to a prompt of 40, of 7 and of 1 tokens.
struct Groups {
  std::vector<data::TokenizedRow> rows;
  std::vector<int64_t> leaders;

  Groups() {
    data::SplitMix64 random(7);
    const auto tokens = [&](int64_t n) {
      std::vector<int32_t> ids;
      for (int64_t i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>(random.Below(kVocabulary)));
      return ids;
    };
    for (const auto& [prompt_length, answers] : {std::pair<int64_t, int64_t>{40, 3}, {7, 2}, {1, 2}}) {
      const std::vector<int32_t> prompt = tokens(prompt_length);
      const int64_t leader = static_cast<int64_t>(rows.size());
      for (int64_t i = 0; i < answers; ++i) {
        data::TokenizedRow row;
        row.input_ids = prompt;
        const std::vector<int32_t> answer = tokens(5 + 9 * i);
        row.input_ids.insert(row.input_ids.end(), answer.begin(), answer.end());
        row.trained.assign(row.input_ids.size(), 1);
        std::fill(row.trained.begin(), row.trained.begin() + prompt_length, 0);
        rows.push_back(row);
        leaders.push_back(leader);
      }
    }
  }
  data::PackedBatch Shared() const {
    std::vector<const data::TokenizedRow*> documents;
    for (const data::TokenizedRow& row : rows) documents.push_back(&row);
    return data::PackSharing(documents, leaders);
  }
  data::PackedBatch Repeated() const {
    std::vector<int64_t> all(rows.size());
    for (size_t i = 0; i < rows.size(); ++i) all[i] = static_cast<int64_t>(i);
    return data::Pack(rows, all);
  }
};

struct Layout {
  bool recompute;
  int64_t piece_rows, keep_all, keep_attention;
};

class SharedPrefix : public testing::TestWithParam<Layout> {
 protected:
  SharedPrefix() {
    config_ = bench::Shape("smollm2-135m");
    config_.num_hidden_layers = 3;
    config_.vocab_size = kVocabulary;
    base_ = bench::RandomModel(config_, {at::kCPU, at::kFloat, plan::BaseFormat::kCompute});
    adapter_ = std::make_unique<lora::Adapter>(
        config_, lora::Options{4, 8, 0, false, *lora::ParseTargets({"all-linear"})}, at::kCPU, at::kFloat);
    adapter_->Initialize(3);
    at::Generator generator = at::detail::createCPUGenerator(5);
    adapter_->parameters().add_(at::randn(adapter_->parameters().sizes(), generator), 0.02);
    const Layout p = GetParam();
    decoder_ = std::make_unique<Decoder>(*base_, *adapter_,
                                         DecoderOptions{.recompute_activations = p.recompute,
                                                        .keep_all_layers = p.keep_all,
                                                        .keep_attention_layers = p.keep_attention,
                                                        .piece_rows = p.piece_rows});
  }
  struct Result {
    at::Tensor policy, reference, gradients;
  };
  Result Run(const data::PackedBatch& packed, const at::Tensor& d_M) {
    const DeviceBatch batch = Upload(packed, at::kCPU);
    Result r;
    r.reference = decoder_->LogProbs(batch, {}, AdapterUse::kOff).log_probs_M.clone();
    adapter_->ZeroGradients();
    r.policy = decoder_->ForwardLogProbs(batch, {}).log_probs_M.clone();
    decoder_->BackwardLogProbs(batch, {}, d_M);
    r.gradients = adapter_->gradients().clone();
    return r;
  }

  c10::InferenceMode no_autograd_;
  format::ModelConfig config_;
  std::shared_ptr<BaseModel> base_;
  std::unique_ptr<lora::Adapter> adapter_;
  std::unique_ptr<Decoder> decoder_;
};

double Difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).abs().max() / b.abs().max()).item<double>();
}

TEST_P(SharedPrefix, LogProbabilitiesAndGradientsEqualThoseOfRepeatedPrompts) {
  const Groups groups;
  const data::PackedBatch shared = groups.Shared(), repeated = groups.Repeated();
  EXPECT_EQ(shared.shared_tokens(), 2 * 39 + 6);
  EXPECT_EQ(shared.input_ids.size() + 84, repeated.input_ids.size());
  ASSERT_EQ(shared.num_targets, repeated.num_targets);
  at::Generator generator = at::detail::createCPUGenerator(9);
  const at::Tensor d_M = at::randn({shared.num_targets}, generator);
  const Result once = Run(shared, d_M), copies = Run(repeated, d_M);
  EXPECT_LT(Difference(once.policy, copies.policy), 1e-6);
  EXPECT_LT(Difference(once.reference, copies.reference), 1e-6);
  EXPECT_GT(Difference(once.policy, once.reference), 1e-3);
  EXPECT_LT(Difference(once.gradients, copies.gradients), 2e-6);
}

TEST_P(SharedPrefix, TakesNoMoreThanThePlanOfRepeatedPrompts) {
  const Groups groups;
  const data::PackedBatch shared = groups.Shared();
  Run(shared, at::ones({shared.num_targets}));
  plan::PlanInput input = PlanInputOf(*base_);
  input.method = plan::Method::kGrpo;
  input.lora_rank = 4;
  input.micro_batch_size = static_cast<int64_t>(groups.rows.size());
  input.max_seq_length = 63;  // the longest
  const Layout p = GetParam();
  input.activation_checkpointing = p.recompute;
  input.keep_all_layers = p.keep_all;
  input.keep_attention_layers = p.keep_attention;
  input.piece_rows = p.piece_rows;
  std::map<std::string, int64_t> planned;
  for (const plan::Buffer& b : plan::PlanMemory(input).buffers) planned[b.name] += b.bytes;
  const std::map<std::string, int64_t> taken = decoder_->workspace().Bytes();
  EXPECT_GT(taken.at("attention.keys"), 0);
  for (const auto& [name, bytes] : taken) EXPECT_LE(bytes, planned[name]) << name;
}

INSTANTIATE_TEST_SUITE_P(Layouts, SharedPrefix,
                         testing::Values(Layout{false, 0, 0, 0}, Layout{true, 20, 0, 0}, Layout{true, 20, 1, 1}));

}  // namespace
}  // namespace finetuned::model
