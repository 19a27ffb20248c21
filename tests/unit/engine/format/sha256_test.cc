#include "engine/format/sha256.h"

#include "tests/unit/engine/format/test_files.h"

namespace finetuned::format {
namespace {

// FIPS 180-2, appendix B.
constexpr char kAbc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

TEST(Sha256, AgreesWithTheStandardsExample) { EXPECT_EQ(Sha256Hex(std::string("abc")), kAbc); }

TEST(Sha256, PiecesGiveTheSameAsTheWhole) {
  Sha256 hash;
  hash.Update(std::string("a"));
  hash.Update(std::string());
  hash.Update(std::string("bc"));
  EXPECT_EQ(hash.FinishHex(), kAbc);
}

TEST(Sha256, FilesLongerThanOneBuffer) {
  TempFolder folder;
  const std::string content((3 << 20) + 17, 'x');
  WriteFile(folder / "big", content);
  const auto digest = Sha256File(folder / "big");
  ASSERT_TRUE(digest.ok()) << digest.status();
  EXPECT_EQ(*digest, Sha256Hex(content));
}

TEST(Sha256, MissingFileIsNamed) {
  ExpectError(Sha256File("/nonexistent/sub/file.bin").status(), absl::StatusCode::kNotFound,
              {"sub/file.bin"});
}

}  // namespace
}  // namespace finetuned::format
