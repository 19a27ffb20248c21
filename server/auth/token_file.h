#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace finetuned::auth {

inline constexpr size_t kMinTokenLength = 32;

// Bearer tokens as their SHA-256, each with the principal it stands for.
class TokenList {
 public:
  // The text of a token file: one token ("token"), or lines "NAME sha256:HEX" ("token:NAME"); # begins a comment.
  // INVALID_ARGUMENT names the line: short token, bad name or hash, a name twice, nothing at all.
  static absl::StatusOr<TokenList> Parse(std::string_view text);
  // The principal of the authorization header "Bearer TOKEN"; nothing when no token matches. Compares with every token
  // in constant time.
  std::optional<std::string> Find(std::string_view header) const;
  size_t size() const { return tokens_.size(); }

 private:
  using Digest = std::array<unsigned char, 32>;
  struct Token {
    std::string principal;
    Digest digest;
  };
  std::vector<Token> tokens_;
};

// A new token of 256 random bits, and the line for the token file that lets it in.
struct NewToken {
  std::string token;
  std::string line;  // "NAME sha256:HEX"
};
// INVALID_ARGUMENT: not a name of [A-Za-z0-9._-]{1,63}.
absl::StatusOr<NewToken> MakeToken(const std::string& name);

// The token file of the configuration, read again when it changes. Thread safe.
class TokenFile {
 public:
  // INVALID_ARGUMENT: as Parse, cannot be read, or others than its owner may read it (mode).
  static absl::StatusOr<std::unique_ptr<TokenFile>> Open(std::string path);

  // As TokenList::Find, of the file as it was at most a second ago.
  std::optional<std::string> Find(std::string_view header);
  // Reads the file now. After an error the tokens stay what they were.
  absl::Status Reload();

 private:
  struct Stamp {
    int64_t inode = 0, size = 0, mtime_nanos = 0;
    bool operator==(const Stamp&) const = default;
  };
  explicit TokenFile(std::string path) : path_(std::move(path)) {}
  absl::Status ReloadLocked();
  Stamp LookAt() const;

  const std::string path_;
  std::mutex mutex_;
  TokenList tokens_;       // guarded by mutex_, like all below
  Stamp stamp_;
  absl::Time looked_at_ = absl::InfinitePast();
};

}  // namespace finetuned::auth
