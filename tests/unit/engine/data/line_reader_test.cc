#include "engine/data/line_reader.h"

#include <sys/resource.h>

#include <fstream>

#include "tests/unit/engine/data/data_test_util.h"

namespace finetuned::data {
namespace {

using testing::ElementsAre;

struct Read {
  std::vector<std::string> texts;
  std::vector<int64_t> numbers, offsets, bytes;
  std::vector<bool> too_long;
};

Read ReadLines(const std::string& path, int64_t limit = 8 << 20) {
  LineReader::Options options;
  options.max_line_bytes = limit;
  auto reader = LineReader::Open(path, options);
  EXPECT_TRUE(reader.ok()) << reader.status();
  Read read;
  Line line;
  while (*(*reader)->Next(&line)) {
    read.texts.emplace_back(line.text.substr(0, 100));
    read.numbers.push_back(line.number);
    read.offsets.push_back(line.offset);
    read.bytes.push_back(line.bytes);
    read.too_long.push_back(line.too_long);
  }
  return read;
}

TEST(LineReader, LinesEndAtLineFeedOnly) {
  TempFile file(
      "a\xE2\x80\xA8"
      "b\xC2\x85"
      "c\rd\n\ne\x0B"
      "f");
  const Read read = ReadLines(file.path());
  EXPECT_THAT(read.texts, ElementsAre("a\xE2\x80\xA8"
                                      "b\xC2\x85"
                                      "c\rd",
                                      "",
                                      "e\x0B"
                                      "f"));
  EXPECT_THAT(read.numbers, ElementsAre(1, 2, 3));
}

TEST(LineReader, CarriageReturnBeforeLineFeedIsStripped) {
  TempFile file("one\r\n\r\ntwo\r\nthree\r");
  EXPECT_THAT(ReadLines(file.path()).texts, ElementsAre("one", "", "two", "three"));
}

TEST(LineReader, ByteOrderMarkIsSkippedOnceAndCountsInOffsets) {
  TempFile file("\xEF\xBB\xBFone\n\xEF\xBB\xBFtwo\n");
  const Read read = ReadLines(file.path());
  EXPECT_THAT(read.texts, ElementsAre("one", "\xEF\xBB\xBFtwo"));
  EXPECT_THAT(read.offsets, ElementsAre(3, 7));
}

TEST(LineReader, NulBytesAreText) {
  TempFile file(std::string("a\0b\nc", 5));
  EXPECT_THAT(ReadLines(file.path()).texts, ElementsAre(std::string("a\0b", 3), "c"));
}

TEST(LineReader, EmptyFileHasNoLines) {
  TempFile file("");
  EXPECT_TRUE(ReadLines(file.path()).texts.empty());
}

TEST(LineReader, LineAtTheLimitIsFineAndOneByteMoreIsNot) {
  TempFile file("12345\n12345\r\n123456\n123456\r\n1\n");
  const Read read = ReadLines(file.path(), 5);
  EXPECT_THAT(read.too_long, ElementsAre(false, false, true, true, false));
  EXPECT_EQ(read.texts.back(), "1");
}

TEST(LineReader, LinesThatCrossTheBufferKeepNumberAndOffset) {
  std::string content;
  std::vector<int64_t> offsets;
  for (int i = 0; i < 40; ++i) {
    offsets.push_back(static_cast<int64_t>(content.size()));
    content += std::string(20'011 + 97 * i, static_cast<char>('a' + i % 26)) + "\n";
  }
  TempFile file(content);
  const Read read = ReadLines(file.path());
  ASSERT_EQ(read.offsets, offsets);
  for (int i = 0; i < 40; ++i) EXPECT_EQ(read.bytes[i], 20'011 + 97 * i);
}

TEST(LineReader, HashIsOfTheWholeFileAlsoWhenOnlyDrained) {
  TempFile file("abc");
  LineReader::Options options;
  options.hash = true;
  auto reader = LineReader::Open(file.path(), options);
  ASSERT_TRUE((*reader)->Drain().ok());
  EXPECT_EQ((*reader)->Sha256Hex(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ((*reader)->bytes_read(), 3);
}

TEST(LineReader, MissingFileAndDirectoryAreNamed) {
  EXPECT_EQ(LineReader::Open("/nonexistent/x.jsonl", {}).status().code(),
            absl::StatusCode::kNotFound);
  const absl::Status directory = LineReader::Open(testing::TempDir(), {}).status();
  EXPECT_EQ(directory.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(directory.message()), testing::HasSubstr("not a file"));
}

// A line of 200 MB under a limit of 1 MB must cost about the limit, not the line.
TEST(LineReader, HugeLineIsNotHeld) {
  TempFile file("");
  {
    std::ofstream out(file.path(), std::ios::binary);
    const std::string chunk(1 << 20, 'x');
    for (int i = 0; i < 200; ++i) out << chunk;
    out << "\nlast\n";
  }
  const auto peak_kib = [] {
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
  };
  const long before = peak_kib();
  const Read read = ReadLines(file.path(), 1 << 20);
  EXPECT_LT(peak_kib() - before, 8 << 10);
  EXPECT_THAT(read.bytes, ElementsAre(200 << 20, 4));
  EXPECT_THAT(read.too_long, ElementsAre(true, false));
}

}  // namespace
}  // namespace finetuned::data
