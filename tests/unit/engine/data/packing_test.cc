#include "engine/data/packing.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "engine/data/shuffle.h"
#include "tests/unit/engine/data/data_test_util.h"

namespace finetuned::data {
namespace {

using testing::ElementsAre;

// Rows of the given lengths; token t of row i is 1000 i + t, all trained.
std::vector<TokenizedRow> RowsOf(const std::vector<int64_t>& lengths) {
  std::vector<TokenizedRow> rows;
  for (size_t i = 0; i < lengths.size(); ++i) {
    TokenizedRow row;
    for (int64_t t = 0; t < lengths[i]; ++t) {
      row.input_ids.push_back(static_cast<int32_t>(1000 * i + t));
      row.trained.push_back(1);
    }
    rows.push_back(row);
  }
  return rows;
}

std::vector<int64_t> RandomLengths(uint64_t seed, size_t count, uint64_t longest) {
  SplitMix64 generator(seed);
  std::vector<int64_t> lengths;
  for (size_t i = 0; i < count; ++i) {
    lengths.push_back(1 + static_cast<int64_t>(generator.Below(longest)));
  }
  return lengths;
}

TEST(BestFitDecreasing, BinsEqualThoseOfTrl) {
  const auto cases = nlohmann::json::parse(
      ReadAll(std::string(FINETUNED_SOURCE_DIR) + "/tests/golden/data/packing.json"));
  ASSERT_EQ(cases.size(), 6u);
  for (const auto& one : cases) {
    const auto bins =
        BestFitDecreasing(one["lengths"].get<std::vector<int64_t>>(), one["capacity"]);
    EXPECT_EQ(nlohmann::json(bins), one["bins"]) << "capacity " << one["capacity"];
  }
}

TEST(BestFitDecreasing, EveryItemOnceAndNoBinAboveItsCapacity) {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    const int64_t capacity = 16 + static_cast<int64_t>(seed) * 40;
    const auto lengths = RandomLengths(seed, 50 + seed * 100, static_cast<uint64_t>(capacity));
    std::vector<int64_t> seen(lengths.size());
    for (const auto& bin : BestFitDecreasing(lengths, capacity)) {
      int64_t total = 0;
      for (int64_t item : bin) {
        ++seen[item];
        total += lengths[item];
      }
      EXPECT_LE(total, capacity);
    }
    EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), static_cast<int64_t>(lengths.size()));
  }
}

TEST(BestFitDecreasing, AnItemAboveTheCapacityGetsABinOfItsOwn) {
  EXPECT_THAT(BestFitDecreasing({3, 12, 3, 0}, 10), ElementsAre(ElementsAre(1), ElementsAre(0, 2)));
}

TEST(BatchPlan, WithoutShuffleRowsKeepFileOrder) {
  const auto rows = RowsOf({3, 4, 5, 6, 7});
  BatchPlanOptions options;
  options.shuffle = false;
  options.micro_batch_size = 2;
  options.gradient_accumulation_steps = 2;
  const BatchPlan plan(rows, options, 0);
  EXPECT_THAT(plan.row_indices(),
              ElementsAre(ElementsAre(0, 1), ElementsAre(2, 3), ElementsAre(4)));
  EXPECT_EQ(plan.optimizer_steps(), 2);
  EXPECT_EQ(plan.LargestMicroBatch(), 1);
  options.drop_last = true;
  EXPECT_EQ(BatchPlan(rows, options, 0).micro_batches(), 2);
}

TEST(BatchPlan, EveryRowExactlyOncePerEpoch) {
  for (Packing packing : {Packing::kNone, Packing::kBestFit}) {
    for (int64_t micro_batch : {1, 3, 8}) {
      const auto rows = RowsOf(RandomLengths(micro_batch, 501, 64));
      BatchPlanOptions options;
      options.packing = packing;
      options.max_seq_length = 64;
      options.micro_batch_size = micro_batch;
      for (int64_t epoch = 0; epoch < 3; ++epoch) {
        const BatchPlan plan(rows, options, epoch);
        std::multiset<int64_t> seen;
        for (const auto& batch : plan.row_indices()) seen.insert(batch.begin(), batch.end());
        EXPECT_EQ(seen.size(), rows.size());
        EXPECT_EQ(std::set<int64_t>(seen.begin(), seen.end()).size(), rows.size());
        for (int64_t i = 0; i < plan.micro_batches(); ++i) {
          const auto tokens = static_cast<int64_t>(plan.Build(i).input_ids.size());
          EXPECT_LE(tokens, 64 * micro_batch);
        }
      }
    }
  }
}

TEST(BatchPlan, OrderDependsOnSeedAndEpochOnly) {
  const auto rows = RowsOf(RandomLengths(5, 100, 9));
  BatchPlanOptions options;
  const auto order = [&](uint64_t seed, int64_t epoch) {
    options.seed = seed;
    return BatchPlan(rows, options, epoch).row_indices();
  };
  EXPECT_EQ(order(42, 1), order(42, 1));
  EXPECT_NE(order(42, 1), order(42, 2));
  EXPECT_NE(order(42, 1), order(43, 1));
  EXPECT_NE(order(42, 1), order(43, 0));
}

TokenizedRow RowWithPrompt(const std::vector<int32_t>& prompt, const std::vector<int32_t>& answer) {
  TokenizedRow row;
  row.input_ids = prompt;
  row.input_ids.insert(row.input_ids.end(), answer.begin(), answer.end());
  row.trained.assign(row.input_ids.size(), 0);
  std::fill(row.trained.begin() + static_cast<std::ptrdiff_t>(prompt.size()), row.trained.end(), 1);
  return row;
}

TEST(PackSharing, LaterDocumentsBeginAtTheLastTokenOfThePrompt) {
  const std::vector<TokenizedRow> rows = {RowWithPrompt({1, 2, 3, 4}, {10, 11}), RowWithPrompt({7}, {12}),
                                          RowWithPrompt({1, 2, 3, 4}, {13}), RowWithPrompt({1, 2, 3, 4}, {10, 14})};
  const PackedBatch batch = PackSharing({&rows[1], &rows[0], &rows[2], &rows[3]}, {0, 1, 1, 1});
  EXPECT_THAT(batch.input_ids, ElementsAre(7, 12, 1, 2, 3, 4, 10, 11, 4, 13, 4, 10, 14));
  EXPECT_THAT(batch.position_ids, ElementsAre(0, 1, 0, 1, 2, 3, 4, 5, 3, 4, 3, 4, 5));
  EXPECT_THAT(batch.labels, ElementsAre(12, -100, -100, -100, -100, 10, 11, -100, 13, -100, 10, 14, -100));
  EXPECT_THAT(batch.cu_seqlens, ElementsAre(0, 2, 8, 10, 13));
  EXPECT_EQ(batch.num_targets, 6);
  EXPECT_EQ(batch.max_seqlen, 6);
  EXPECT_EQ(batch.shared_tokens(), 6);
  ASSERT_EQ(batch.prefixes.size(), 4u);
  EXPECT_EQ(batch.prefixes[0].length + batch.prefixes[1].length, 0);
  for (int i : {2, 3}) {
    EXPECT_EQ(batch.prefixes[i].start, 2);
    EXPECT_EQ(batch.prefixes[i].length, 3);
  }
}

TEST(PackSharing, AShortPromptIsRepeated) {
  const TokenizedRow a = RowWithPrompt({1, 2}, std::vector<int32_t>(20, 5)),
                     b = RowWithPrompt({1, 2}, std::vector<int32_t>(20, 6));
  const PackedBatch batch = PackSharing({&a, &b}, {0, 0});
  EXPECT_EQ(batch.input_ids.size(), 44u);
  EXPECT_TRUE(batch.prefixes.empty());
}

TEST(BatchPlan, RowsOfAUnitShareTheirPrompt) {
  std::vector<TokenizedRow> rows;
  for (int32_t i = 0; i < 6; ++i) rows.push_back(RowWithPrompt({i / 2, 1, 2, 3, 4}, {i}));
  BatchPlanOptions options;
  options.rows_per_unit = 2;
  options.micro_batch_size = 3;
  const BatchPlan plan(rows, options, 0);
  const PackedBatch batch = plan.Build(0);
  EXPECT_EQ(batch.input_ids.size(), 3u * (6 + 2));
  EXPECT_EQ(batch.rows.size(), 6u);
  EXPECT_EQ(batch.shared_tokens(), 12);
}

// Resuming with a later build must find the same order. If this fails, the format of checkpoints
// has changed: do not update the numbers, keep the old generator for old checkpoints.
TEST(BatchPlan, OrderIsFrozen) {
  const auto rows = RowsOf(std::vector<int64_t>(12, 2));
  std::vector<int64_t> order;
  const BatchPlan plan(rows, BatchPlanOptions(), 0);
  for (const auto& batch : plan.row_indices()) {
    order.push_back(batch.at(0));
  }
  EXPECT_THAT(order, ElementsAre(4, 7, 0, 2, 9, 10, 1, 11, 6, 3, 5, 8));
}

TEST(SplitMix64, EqualsThePublishedSequence) {
  SplitMix64 generator(1234567);
  EXPECT_EQ(generator.Next(), 6457827717110365317u);
  EXPECT_EQ(generator.Next(), 3203168211198807973u);
  EXPECT_EQ(generator.Next(), 9817491932198370423u);
}

TEST(Shuffle, IsUniform) {
  SplitMix64 generator(3);
  std::vector<int> counts(24);
  for (int i = 0; i < 24'000; ++i) {
    std::vector<int> items = {0, 1, 2, 3}, sorted = items;
    Shuffle(&generator, &items);
    int rank = 0;
    do {
      if (items == sorted) ++counts[rank];
      ++rank;
    } while (std::next_permutation(sorted.begin(), sorted.end()));
  }
  for (int count : counts) EXPECT_NEAR(count, 1000, 150);
}

TEST(PackedBatch, LabelsAreShiftedInsideEachDocument) {
  std::vector<TokenizedRow> rows(2);
  rows[0].input_ids = {10, 11, 12, 13};
  rows[0].trained = {1, 0, 1, 1};
  rows[1].input_ids = {20, 21};
  rows[1].trained = {1, 1};
  BatchPlanOptions options;
  options.shuffle = false;
  options.micro_batch_size = 2;
  const PackedBatch batch = BatchPlan(rows, options, 0).Build(0);
  EXPECT_THAT(batch.input_ids, ElementsAre(10, 11, 12, 13, 20, 21));
  EXPECT_THAT(batch.labels, ElementsAre(-100, 12, 13, -100, 21, -100));
  EXPECT_THAT(batch.position_ids, ElementsAre(0, 1, 2, 3, 0, 1));
  EXPECT_THAT(batch.cu_seqlens, ElementsAre(0, 4, 6));
  EXPECT_EQ(batch.max_seqlen, 4);
  EXPECT_EQ(batch.num_targets, 3);
}

}  // namespace
}  // namespace finetuned::data
