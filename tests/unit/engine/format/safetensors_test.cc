#include <limits>

#include "engine/format/safetensors_reader.h"
#include "engine/format/safetensors_writer.h"
#include "tests/unit/engine/format/test_files.h"

namespace finetuned::format {
namespace {

std::string FileOf(const std::string& header, size_t data_bytes) {
  return Raw<uint64_t>(header.size()) + header + std::string(data_bytes, 'd');
}

struct BadFile {
  const char* what;
  std::string content;
  std::vector<const char*> message;
};

std::vector<BadFile> BadFiles() {
  const std::string a = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  return {
      {"empty file", "", {"expected at least 8 bytes", "found 0"}},
      {"header beyond the limit", Raw<uint64_t>(1ull << 60) + "{}", {"at most 100000000"}},
      {"truncated header", FileOf("{" + a + "}", 8).substr(0, 30), {"does not fit", "truncated"}},
      {"truncated data", FileOf("{" + a + "}", 4), {"tensor a", "data ends at 8", "only 4 bytes"}},
      {"bytes after the data", FileOf("{" + a + "}", 9), {"expected 8 bytes of data, found 9"}},
      {"not JSON", FileOf("{" + a, 8), {"not valid JSON"}},
      {"not UTF-8", FileOf("{\"\xff\":1}", 0), {"not valid JSON at byte"}},
      {"list", FileOf("[]", 0), {"not a JSON object"}},
      {"deep", FileOf("{\"a\":" + std::string(100000, '[') + "}", 0), {"nested deeper than 8"}},
      {"duplicate tensor", FileOf("{" + a + "," + a + "}", 8), {"duplicate key \"a\""}},
      {"gap",
       FileOf("{" + a + R"(,"b":{"dtype":"U8","shape":[1],"data_offsets":[9,10]}})", 10),
       {"tensor b", "leaves a gap", "expected data to begin at 8, found 9"}},
      {"overlap",
       FileOf("{" + a + R"(,"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})", 8),
       {"tensor b", "overlaps"}},
      {"lying offsets",
       FileOf(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4),
       {"tensor a", "expected 8 bytes for F32 [2]", "of 4 bytes"}},
      {"reversed offsets",
       FileOf(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8),
       {"tensor a", "begin <= end"}},
      {"overflowing shape",
       FileOf(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0),
       {"tensor a", "overflows"}},
      {"offset of 2^64 - 1",
       FileOf(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,18446744073709551615]}})", 1),
       {"tensor a", "data_offsets"}},
      {"negative size",
       FileOf(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8),
       {"tensor a", "shape is not a list of sizes"}},
      {"fractional size",
       FileOf(R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", 8),
       {"tensor a", "shape is not a list of sizes"}},
      {"unknown dtype",
       FileOf(R"({"a":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}})", 8),
       {"tensor a", "F8_E4M3", "not supported"}},
      {"unknown field",
       FileOf(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}})", 8),
       {"tensor a", "exactly dtype, shape and data_offsets"}},
      {"metadata of numbers",
       FileOf(R"({"__metadata__":{"format":1}})", 0),
       {"__metadata__", "\"format\" is not a string"}},
  };
}

TEST(SafetensorsReader, EachMalformedFileIsRefusedWithItsReason) {
  for (const BadFile& bad : BadFiles()) {
    const auto header = ParseSafetensors(Bytes(bad.content), "m/model.safetensors");
    ASSERT_FALSE(header.ok()) << bad.what;
    ExpectError(header.status(), absl::StatusCode::kInvalidArgument, {"m/model.safetensors"},
                bad.what);
    for (const char* part : bad.message) {
      ExpectError(header.status(), absl::StatusCode::kInvalidArgument, {part}, bad.what);
    }
  }
}

TEST(SafetensorsReader, PaddedHeaderWithMetadataIsRead) {
  const std::string file = FileOf(
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[],"data_offsets":[0,2]}}   )",
      2);
  const auto header = ParseSafetensors(Bytes(file), "f");
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->metadata.at("format"), "pt");
  ASSERT_EQ(header->tensors.size(), 1u);
  EXPECT_EQ(header->tensors[0].dtype, DType::kBF16);
  EXPECT_EQ(header->offsets[0], static_cast<int64_t>(file.size()) - 2);
}

std::vector<SafetensorsWriter::Layout> ExampleLayout() {
  return {{"codes", DType::kU8, {5}},
          {"b.weight", DType::kF32, {2, 3}},
          {"empty", DType::kF32, {0, 4}},
          {"step", DType::kI64, {1}},
          {"a.weight", DType::kF16, {3}}};
}

TEST(SafetensorsWriter, BytesEqualTheReferenceWhateverTheOrderOfPieces) {
  TempFolder folder;
  auto writer =
      SafetensorsWriter::Create(folder / "w.safetensors", ExampleLayout(), {.sync = true});
  ASSERT_TRUE(writer.ok()) << writer.status();
  const std::vector<float> b = {0, 1, 2, 3, 4, 5};
  const std::vector<uint16_t> a = {0, 0x3c00, 0x4000};
  const std::vector<uint8_t> codes = {0, 1, 2, 3, 4};
  const std::vector<int64_t> step = {7};
  EXPECT_TRUE((*writer)->Append("codes", BytesOf(codes).first(2)).ok());
  EXPECT_TRUE((*writer)->Append("b.weight", BytesOf(b).first(10)).ok());
  EXPECT_TRUE((*writer)->Append("step", BytesOf(step)).ok());
  EXPECT_TRUE((*writer)->Append("codes", BytesOf(codes).subspan(2)).ok());
  EXPECT_TRUE((*writer)->Append("a.weight", BytesOf(a)).ok());
  EXPECT_TRUE((*writer)->Append("b.weight", BytesOf(b).subspan(10)).ok());
  EXPECT_FALSE(std::filesystem::exists(folder / "w.safetensors"));
  const absl::Status finished = (*writer)->Finish();
  ASSERT_TRUE(finished.ok()) << finished;
  EXPECT_EQ(ReadFile(folder / "w.safetensors"), ReadFile(GoldenPath("writer.safetensors")));
}

TEST(SafetensorsWriter, MistakesAreNamedAndLeaveNothingBehind) {
  TempFolder folder;
  const std::string path = folder / "w.safetensors";
  {
    auto writer = SafetensorsWriter::Create(path, ExampleLayout());
    ASSERT_TRUE(writer.ok()) << writer.status();
    const std::vector<uint8_t> six(6);
    ExpectError((*writer)->Append("codes", six), absl::StatusCode::kInvalidArgument,
                {"w.safetensors", "codes", "at most 5 more bytes, found 6"});
    ExpectError((*writer)->Append("nope", six), absl::StatusCode::kInvalidArgument, {"nope"});
    ExpectError((*writer)->Finish(), absl::StatusCode::kFailedPrecondition, {"a.weight", "last 6"});
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  using Layouts = std::vector<SafetensorsWriter::Layout>;
  const int64_t big = std::numeric_limits<int64_t>::max();
  const std::pair<Layouts, const char*> bad[] = {
      {{{"a", DType::kF32, {1}}, {"a", DType::kF32, {2}}}, "duplicate tensor a"},
      {{{"q", DType::kQ4_0, {32}}}, "no Q4_0"},
      {{{"n\n", DType::kF32, {1}}}, "printable"},
      {{{"__metadata__", DType::kF32, {1}}}, "cannot name"},
      {{{"big", DType::kF32, {big, big}}}, "overflows"}};
  for (const auto& [layout, message] : bad) {
    ExpectError(SafetensorsWriter::Create(path, layout).status(),
                absl::StatusCode::kInvalidArgument, {"w.safetensors", message});
  }
  EXPECT_EQ(SafetensorsWriter::Create("/nonexistent/w", {}).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(SafetensorsWriter, ReaderReadsWhatWasWritten) {
  TempFolder folder;
  auto writer = SafetensorsWriter::Create(folder / "x", {{"t", DType::kBF16, {2}}},
                                          {.metadata = {{"step", "10 \"q\""}}});
  ASSERT_TRUE(writer.ok()) << writer.status();
  const std::vector<uint16_t> t = {0x3f80, 0xc000};
  ASSERT_TRUE((*writer)->Append("t", BytesOf(t)).ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  const auto file = SafetensorsFile::Open(folder / "x");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->metadata().at("step"), "10 \"q\"");
  EXPECT_EQ((*file)->Raw("t")->size(), 4u);
  EXPECT_EQ((*file)->Raw("u").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace finetuned::format
