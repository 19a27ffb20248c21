#include "server/config/beneath.h"

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

namespace finetuned::config {
namespace {

namespace fs = std::filesystem;

// With the kernel's openat2 and without: the answers are the same.
class Beneath : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    char name[] = "/tmp/ftbeneathXXXXXX";
    top_ = mkdtemp(name);
    root_ = top_ + "/models";
    fs::create_directories(root_ + "/llama");
    fs::create_directories(root_ + "/blobs");
    fs::create_directories(top_ + "/models-private");
    for (const char* file : {"/models/llama/config.json", "/models/blobs/b", "/secret", "/models-private/x"}) {
      std::ofstream(top_ + file) << "x";
    }
  }
  void TearDown() override { fs::remove_all(top_); }
  std::optional<std::string> Resolve(const std::string& path) const {
    return ResolveBeneathUsing(GetParam(), root_, path);
  }
  std::string top_, root_;
};

TEST_P(Beneath, WhatLiesBelowIsFoundWithoutItsLinks) {
  EXPECT_EQ(Resolve(root_ + "/llama"), root_ + "/llama");
  EXPECT_EQ(Resolve(root_ + "/blobs/../llama/config.json"), root_ + "/llama/config.json");
  fs::create_symlink("llama", root_ + "/alias");
  EXPECT_EQ(Resolve(root_ + "/alias"), root_ + "/llama");
  fs::create_symlink("../blobs/b", root_ + "/llama/model.safetensors");  // as in the cache of Hugging Face
  EXPECT_EQ(Resolve(root_ + "/llama"), root_ + "/llama");
}

TEST_P(Beneath, NothingLeadsOut) {
  EXPECT_FALSE(Resolve(root_));
  EXPECT_FALSE(Resolve(root_ + "/../secret"));
  EXPECT_FALSE(Resolve(top_ + "/models-private/x")) << "a folder whose name begins alike";
  EXPECT_FALSE(Resolve("/etc/passwd"));
  EXPECT_FALSE(Resolve(root_ + "/missing"));
  fs::create_symlink(top_ + "/secret", root_ + "/link");
  EXPECT_FALSE(Resolve(root_ + "/link"));
  fs::create_symlink("../secret", root_ + "/relative");
  EXPECT_FALSE(Resolve(root_ + "/relative"));
}

TEST_P(Beneath, AFolderWithAnEntryThatLeadsOutIsRefused) {
  fs::create_symlink(top_ + "/secret", root_ + "/llama/model.safetensors");
  EXPECT_FALSE(Resolve(root_ + "/llama"));
  fs::remove(root_ + "/llama/model.safetensors");
  fs::create_symlink("nowhere", root_ + "/llama/dangling");
  EXPECT_FALSE(Resolve(root_ + "/llama"));
}

INSTANTIATE_TEST_SUITE_P(KernelOrNames, Beneath, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Kernel" : "Names"; });

}  // namespace
}  // namespace finetuned::config
