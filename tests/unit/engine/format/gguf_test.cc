#include "engine/format/gguf_config.h"
#include "engine/format/gguf_reader.h"
#include "engine/format/model_source.h"
#include "engine/format/rope.h"
#include "tests/unit/engine/format/gguf_builder.h"

namespace finetuned::format {
namespace {

using Code = absl::StatusCode;

struct BadFile {
  const char* what;
  std::string content;
  const char* message;
  Code code = Code::kInvalidArgument;
};

std::string Counted(uint64_t tensors, uint64_t values) {
  GgufBuilder b;
  b.tensor_count = tensors;
  b.value_count = values;
  b.data = std::string(64, '\0');
  return b.Build();
}

GgufBuilder OneTensor(const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset) {
  GgufBuilder b;
  b.Tensor("t", dims, type, offset);
  b.data = std::string(64, 'd');
  return b;
}

std::string NestedArrays(int depth) {
  std::string bytes;
  for (int i = 1; i < depth; ++i) bytes += Raw<uint32_t>(9) + Raw<uint64_t>(1);
  return bytes + Raw<uint32_t>(4) + Raw<uint64_t>(1) + Raw<uint32_t>(7);
}

std::vector<BadFile> BadHeaders() {
  GgufBuilder version_1;
  version_1.version = 1;
  GgufBuilder big_endian;
  big_endian.version = 3u << 24;
  const std::string sound = WithTensors(LlamaKeys()).Build();
  return {
      {"empty", "", "not a GGUF file"},
      {"other magic", "GGML" + std::string(60, '\0'), "not a GGUF file"},
      {"version 1", version_1.Build(), "GGUF version 1 is not supported", Code::kUnimplemented},
      {"big endian", big_endian.Build(), "big endian?", Code::kUnimplemented},
      {"cut in the preamble", sound.substr(0, 20), "metadata count needs 8 bytes"},
      {"cut in the metadata", sound.substr(0, 100), "does not fit into the file of 100 bytes"},
      {"cut in the data", sound.substr(0, sound.size() - 64),
       "tensor blk.0.ffn_down.weight: data ends at"},
      {"huge tensor count", Counted(1ull << 60, 0), "tensor count 1152921504606846976"},
      {"huge metadata count", Counted(0, 1ull << 60), "metadata count 1152921504606846976"},
      {"array of 2^60", GgufBuilder().Array("k", 4, 1ull << 60, "").Build(),
       "metadata k: array of 1152921504606846976 elements"},
      {"array of 2^60 strings", GgufBuilder().Array("k", 8, 1ull << 60, "").Build(),
       "metadata k: array of 1152921504606846976 elements"},
      {"string of 2^63", GgufBuilder().Value("k", 8, Raw<uint64_t>(1ull << 63)).Build(),
       "metadata k needs 9223372036854775808 bytes"},
      {"unknown value type", GgufBuilder().Value("k", 13, "").Build(), "value type 13"},
      {"unknown element type", GgufBuilder().Array("k", 77, 1, "").Build(), "element type 77"},
      {"bool of 2", GgufBuilder().Value("k", 7, "\x02").Build(), "expected 0 or 1"},
      {"arrays nested too deep", GgufBuilder().Value("k", 9, NestedArrays(6)).Build(),
       "metadata k: arrays nested deeper than 4"},
      {"empty key", GgufBuilder().U32("", 1).Build(), "metadata key 0 is empty"},
      {"key twice", GgufBuilder().U32("k", 1).U32("k", 2).Build(), "metadata k is there twice"},
      {"alignment 0", GgufBuilder().U32("general.alignment", 0).Build(),
       "general.alignment: expected a power of two"},
      {"alignment 24", GgufBuilder().U32("general.alignment", 24).Build(), "found 24"},
      {"alignment as text", GgufBuilder().String("general.alignment", "32").Build(),
       "general.alignment: expected an integer below 2^63, found string"},
      {"no dimensions", OneTensor({}, 0, 0).Build(),
       "tensor t: expected 1 to 4 dimensions, found 0"},
      {"five dimensions", OneTensor({1, 1, 1, 1, 1}, 0, 0).Build(), "found 5"},
      {"dimension 0", OneTensor({0}, 0, 0).Build(), "tensor t: dimension 0: expected 1"},
      {
          "overflow",
          OneTensor({1ull << 40, 1ull << 40}, 0, 0).Build(),
          "tensor t: shape",
      },
      {"size of 2^64 - 1", OneTensor({~0ull}, 0, 0).Build(), "tensor t: dimension 0"},
      {"row not of whole blocks", OneTensor({33}, 8, 0).Build(), "Q8_0 block of 32"},
      {"ggml type 99", OneTensor({4}, 99, 0).Build(), "ggml type 99 is not supported",
       Code::kUnimplemented},
      {"misaligned", OneTensor({4}, 0, 4).Build(), "offset 4 is not a multiple"},
      {"offset beyond the file", OneTensor({4}, 0, 1ull << 63).Build(), "do not fit into the file"},
      {"offset that wraps", OneTensor({4}, 0, ~0ull - 31).Build(), "do not fit into the file"},
      {"data beyond the file", OneTensor({4}, 0, 64).Build(), "tensor t: data ends at"},
      {"tensor twice", OneTensor({4}, 0, 0).Tensor("t", {4}, 0, 32).Build(),
       "tensor t is there twice"},
      {"overlap", OneTensor({12}, 0, 0).Tensor("u", {4}, 0, 32).Build(),
       "tensor u overlaps tensor t"},
  };
}

TEST(GgufReader, EachMalformedHeaderIsRefusedWithItsReason) {
  for (const BadFile& bad : BadHeaders()) {
    ExpectError(ParseGguf(Bytes(bad.content), "m.gguf").status(), bad.code,
                {"m.gguf: ", bad.message}, bad.what);
  }
}

TEST(GgufReader, NestedArraysWithinTheLimitAreWalkedOver) {
  const std::string file = GgufBuilder().Value("k", 9, NestedArrays(4)).U32("after", 5).Build();
  const auto gguf = ParseGguf(Bytes(file), "m.gguf");
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  EXPECT_EQ(**gguf->metadata.Int("after"), 5);
}

TEST(GgufReader, Version2AndOtherAlignments) {
  GgufBuilder b;
  b.version = 2;
  b.U32("general.alignment", 8).Tensor("t", {2}, 0, 8);
  b.data = std::string(48, 'd');
  const auto gguf = ParseGguf(Bytes(b.Build()), "m.gguf");
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  EXPECT_EQ(gguf->alignment, 8);
  EXPECT_EQ(gguf->tensors[0].offset % 8, 0);
}

TEST(GgufMetadata, ValuesAreConvertedOrTheirTypeIsNamed) {
  const std::string file = GgufBuilder()
                               .U32("u", 7)
                               .Value("i", 11, Raw<int64_t>(-3))
                               .Value("big", 10, Raw<uint64_t>(~0ull))
                               .Value("f", 12, Raw(0.25))
                               .Array("ints", 3, 2, Raw<int16_t>(-1) + Raw<int16_t>(5))
                               .Array("texts", 8, 2, GgufString("x") + GgufString(""))
                               .Build();
  const auto gguf = ParseGguf(Bytes(file), "m.gguf");
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  const GgufMetadata& m = gguf->metadata;
  EXPECT_EQ(**m.Int("u"), 7);
  EXPECT_EQ(**m.Int("i"), -3);
  EXPECT_EQ(**m.Number("f"), 0.25);
  EXPECT_THAT(**m.Ints("ints"), testing::ElementsAre(-1, 5));
  EXPECT_THAT(**m.Strings("texts"), testing::ElementsAre("x", ""));
  EXPECT_FALSE(m.Int("absent")->has_value());
  ExpectError(m.Int("big").status(), Code::kInvalidArgument, {"metadata big", "found u64"});
  ExpectError(m.Floats("ints").status(), Code::kInvalidArgument,
              {"m.gguf: metadata ints: expected an array of f32, found array of 2 i16"});
  ExpectError(m.String("u").status(), Code::kInvalidArgument, {"expected a string, found u32"});
}

// Opens a file with this content.
absl::StatusOr<std::shared_ptr<const ModelSource>> Open(const GgufBuilder& builder) {
  static const auto& folder = *new TempFolder();
  const std::string path = folder / "model.gguf";
  std::filesystem::remove(path);
  WriteFile(path, builder.Build());
  return OpenModel(path);
}

TEST(GgufModel, EachUnusableModelIsRefusedWithItsReason) {
  const auto vocabulary = [](int n) {
    std::string bytes;
    for (int i = 0; i < n; ++i) bytes += GgufString("t");
    return LlamaKeys().Array("tokenizer.ggml.tokens", 8, n, bytes);
  };
  const struct {
    const char* what;
    GgufBuilder file;
    Code code;
    const char* message;
  } cases[] = {
      {"architecture", GgufBuilder().String("general.architecture", "bert"), Code::kUnimplemented,
       "general.architecture: \"bert\" is not supported; supported: llama, qwen2, qwen3"},
      {"no architecture", GgufBuilder().U32("x", 1), Code::kUnimplemented, "supported: llama"},
      {"key missing", GgufBuilder().String("general.architecture", "llama"), Code::kInvalidArgument,
       "metadata llama.embedding_length is missing"},
      {"experts", WithTensors(LlamaKeys().U32("llama.expert_count", 8)), Code::kUnimplemented,
       "llama.expert_count"},
      {"yarn", WithTensors(LlamaKeys().String("llama.rope.scaling.type", "yarn")),
       Code::kUnimplemented, "yarn is not supported"},
      {"partial rotary", WithTensors(LlamaKeys().U32("llama.rope.dimension_count", 1)),
       Code::kUnimplemented, "llama.rope.dimension_count"},
      {"no embedding", WithTensors(LlamaKeys(), "token_embd.weight"), Code::kInvalidArgument,
       "token_embd.weight is missing"},
      {"missing tensor", WithTensors(LlamaKeys(), "blk.0.ffn_up.weight"), Code::kInvalidArgument,
       "tensor model.layers.0.mlp.up_proj.weight is missing; expected shape [8, 4]"},
      {"wrong shape",
       WithTensors(LlamaKeys(), "blk.0.ffn_up.weight").F32Tensor("blk.0.ffn_up.weight", {8, 4}),
       Code::kInvalidArgument, "up_proj.weight: expected shape [8, 4], found [4, 8]"},
      {"more layers than announced",
       WithTensors(LlamaKeys()).F32Tensor("blk.1.attn_norm.weight", {4}), Code::kInvalidArgument,
       "model.layers.1.input_layernorm.weight [4] is not part"},
      {"alias of a name", WithTensors(LlamaKeys()).F32Tensor("model.norm.weight", {4}),
       Code::kInvalidArgument, "model.norm.weight is there twice"},
      {"divisors of wrong length", WithTensors(LlamaKeys()).F32Tensor("rope_freqs.weight", {3}),
       Code::kInvalidArgument, "rope_freqs.weight: expected F32 [1], found F32 [3]"},
      {"divisor 0", WithTensors(LlamaKeys()).F32Tensor("rope_freqs.weight", {1}, 0.0f),
       Code::kInvalidArgument, "rope_freqs"},
      {"more tokens than rows", WithTensors(vocabulary(7)), Code::kInvalidArgument,
       "expected at least 7 rows"},
      {"token id", WithTensors(LlamaKeys().U32("tokenizer.ggml.eos_token_id", 6)),
       Code::kInvalidArgument, "eos_token_id: expected 0 to 5, found 6"},
      {"template as number", WithTensors(LlamaKeys().U32("tokenizer.chat_template", 6)),
       Code::kInvalidArgument, "tokenizer.chat_template: expected a string"},
  };
  for (const auto& c : cases) {
    ExpectError(Open(c.file).status(), c.code, {"model.gguf", c.message}, c.what);
  }
}

TEST(GgufModel, OptionalPartsAreFound) {
  GgufBuilder b = WithTensors(LlamaKeys()
                                  .String("llama.rope.scaling.type", "linear")
                                  .F32("llama.rope.scaling.factor", 4.0f)
                                  .U32("tokenizer.ggml.eos_token_id", 1)
                                  .U32("tokenizer.ggml.eot_token_id", 3));
  b.F32Tensor("output.weight", {4, 6});
  const auto model = Open(b);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_FALSE((*model)->config().tie_word_embeddings);
  EXPECT_EQ((*model)->config().rope_scaling.factor, 4.0);
  EXPECT_THAT((*model)->config().eos_token_ids, testing::ElementsAre(1, 3));
  EXPECT_NE((*model)->Find("lm_head.weight"), nullptr);
  EXPECT_TRUE((*model)->chat_template().empty());
  ExpectError((*model)->LoadTokenizer().status(), Code::kFailedPrecondition,
              {"model.gguf: no vocabulary"});
}

TEST(GgufModel, RopeDivisorsDivideTheFrequencies) {
  const auto model = Open(WithTensors(LlamaKeys()).F32Tensor("rope_freqs.weight", {1}, 8.0f));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_THAT(InverseFrequencies((*model)->config()), testing::ElementsAre(0.125));
  EXPECT_EQ((*model)->Find("rope_freqs.weight"), nullptr);
}

TEST(GgufVocabulary, FieldsAndTheirSizes) {
  const std::string tokens = GgufString("a") + GgufString("b");
  GgufBuilder b;
  b.Array("tokenizer.ggml.tokens", 8, 2, tokens)
      .String("tokenizer.ggml.model", "llama")
      .Array("tokenizer.ggml.scores", 6, 2, Raw(-1.0f) + Raw(-2.0f))
      .Array("tokenizer.ggml.token_type", 5, 1, Raw(3))
      .Value("tokenizer.ggml.add_bos_token", 7, std::string(1, '\1'))
      .U32("tokenizer.ggml.unknown_token_id", 1);
  const std::string file = b.Build();
  const auto gguf = ParseGguf(Bytes(file), "m.gguf");
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  ExpectError(ReadGgufVocabulary(gguf->metadata, "m.gguf").status(), Code::kInvalidArgument,
              {"tokenizer.ggml.token_type: expected 2 elements, found 1"});
}

}  // namespace
}  // namespace finetuned::format
