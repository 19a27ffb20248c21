// Damaged files never crash a parser or make it read outside the file (run it with sanitizers).
#include <random>

#include "engine/format/gguf_config.h"
#include "engine/format/gguf_reader.h"
#include "engine/format/hf_config.h"
#include "engine/format/model_source.h"
#include "engine/format/safetensors_reader.h"
#include "tests/unit/engine/format/test_files.h"

namespace finetuned::format {
namespace {

constexpr int kRounds = 3000;

// A few bytes changed, moved or cut within the first `header` bytes, or the end cut off.
std::string Mutate(std::string text, size_t header, std::mt19937_64& random) {
  const auto pick = [&random](size_t n) { return static_cast<size_t>(random() % n); };
  const int changes = 1 + static_cast<int>(pick(4));
  for (int i = 0; i < changes; ++i) {
    const size_t at = pick(std::min(header, text.size()));
    switch (pick(6)) {
      case 0:
        text[at] = static_cast<char>(random());
        break;
      case 1:
        text[at] = static_cast<char>(text[at] ^ (1 << pick(8)));
        break;
      case 2:
        text[at] = static_cast<char>(0xff);
        break;
      case 3:
        text.erase(at, 1 + pick(8));
        break;
      case 4:
        text.insert(at, text.substr(pick(at + 1), 1 + pick(16)));
        break;
      default:
        for (size_t j = at; j < std::min(at + 8, text.size()); ++j)
          text[j] = static_cast<char>(random());
    }
    if (text.empty()) return text;
  }
  if (pick(10) == 0) text.resize(pick(text.size()));
  return text;
}

// An exact heap copy: reading one byte too far is seen by AddressSanitizer.
std::vector<uint8_t> Exact(const std::string& text) { return {text.begin(), text.end()}; }

TEST(Mutation, GgufHeaders) {
  const std::string sound = ReadFile(GoldenPath("tiny.gguf"));
  const auto layout = ParseGguf(Bytes(sound), "m");
  ASSERT_TRUE(layout.ok()) << layout.status();
  size_t header = sound.size();
  for (const GgufTensor& t : layout->tensors) header = std::min<size_t>(header, t.offset);
  std::mt19937_64 random(1);
  int refused = 0;
  for (int i = 0; i < kRounds; ++i) {
    const std::vector<uint8_t> file = Exact(Mutate(sound, header, random));
    const auto parsed = ParseGguf(file, "m");
    if (!parsed.ok()) {
      ++refused;
      continue;
    }
    for (const GgufTensor& t : parsed->tensors) {
      ASSERT_LE(static_cast<uint64_t>(t.offset + t.info.bytes), file.size());
    }
    const auto config = GgufConfig(*parsed, file, "m");
    const auto vocabulary = ReadGgufVocabulary(parsed->metadata, "m");
    refused += !config.ok() || !vocabulary.ok();
  }
  EXPECT_GT(refused, kRounds / 4);
}

TEST(Mutation, SafetensorsHeaders) {
  const std::string sound = ReadFile(GoldenPath("tiny/model-00001-of-00002.safetensors"));
  const auto parsed = ParseSafetensors(Bytes(sound), "m");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  std::mt19937_64 random(2);
  int refused = 0;
  for (int i = 0; i < kRounds; ++i) {
    const std::vector<uint8_t> file = Exact(Mutate(sound, parsed->offsets[0], random));
    const auto header = ParseSafetensors(file, "m");
    refused += !header.ok();
    if (!header.ok()) continue;
    for (size_t t = 0; t < header->tensors.size(); ++t) {
      ASSERT_LE(static_cast<uint64_t>(header->offsets[t] + header->tensors[t].bytes), file.size());
    }
  }
  EXPECT_GT(refused, kRounds / 2);
}

TEST(Mutation, Configurations) {
  const std::string sound = ReadFile(GoldenPath("tiny/config.json"));
  std::mt19937_64 random(3);
  int refused = 0;
  for (int i = 0; i < kRounds; ++i) {
    refused += !ParseHfConfig(Mutate(sound, sound.size(), random), "", "m").ok();
  }
  EXPECT_GT(refused, kRounds / 4);
}

// Whatever opens can also be read completely.
TEST(Mutation, WholeGgufModels) {
  const std::string sound = ReadFile(GoldenPath("tiny.gguf"));
  TempFolder folder;
  std::mt19937_64 random(4);
  for (int i = 0; i < 300; ++i) {
    const std::string path = folder / "m.gguf";
    WriteFile(path, Mutate(sound, 3000, random));
    const auto model = OpenModel(path);
    if (!model.ok()) continue;
    for (const TensorInfo& tensor : (*model)->tensors()) {
      std::vector<float> out(*ElementCount(tensor.shape));
      EXPECT_TRUE((*model)->ReadF32(tensor, std::span<float>(out)).ok()) << tensor.name;
    }
  }
}

}  // namespace
}  // namespace finetuned::format
