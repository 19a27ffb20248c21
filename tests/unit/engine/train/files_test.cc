#include "engine/train/files.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/parity/parity_testing.h"

namespace finetuned::train {
namespace {

namespace fs = std::filesystem;

TEST(NewDirectory, AppearsOnlyWithCommitAndReplacesWhatWasThere) {
  const std::string root = parity::NewTemporaryDirectory("new_directory");
  for (const char* content : {"one", "two"}) {
    auto directory = NewDirectory::Create(root, "d");
    ASSERT_TRUE(directory.ok());
    ASSERT_TRUE(WriteFile((*directory)->path() + "/f", content).ok());
    auto bytes = (*directory)->Commit();
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    EXPECT_EQ(*bytes, 3);
    EXPECT_EQ(*ReadFile(root + "/d/f"), content);
  }
  { auto dropped = NewDirectory::Create(root, "never"); }
  EXPECT_EQ(std::distance(fs::directory_iterator(root), fs::directory_iterator()), 1);
}

// A process that died between the two renames of Commit leaves the old folder aside.
TEST(NewDirectory, LeftoversOfADeadProcessAreResolved) {
  const std::string root = parity::NewTemporaryDirectory("leftovers");
  fs::create_directories(root + "/.tmp-a");
  fs::create_directories(root + "/.old-b");
  fs::create_directories(root + "/c");
  fs::create_directories(root + "/.old-c");
  RemoveLeftovers(root);
  std::vector<std::string> left;
  for (const auto& e : fs::directory_iterator(root)) left.push_back(e.path().filename());
  EXPECT_THAT(left, testing::UnorderedElementsAre("b", "c"));
}

TEST(DirectoryLock, SecondTakerIsRefusedUntilTheFirstLetsGo) {
  const std::string root = parity::NewTemporaryDirectory("lock");
  auto first = DirectoryLock::Take(root);
  ASSERT_TRUE(first.ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(DirectoryLock::Take(root).status()));
  first->reset();
  EXPECT_TRUE(DirectoryLock::Take(root).ok());
}

}  // namespace
}  // namespace finetuned::train
