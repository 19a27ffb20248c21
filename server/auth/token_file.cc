#include "server/auth/token_file.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <sys/stat.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "server/config/log.h"

namespace finetuned::auth {
namespace {

constexpr absl::Duration kLookInterval = absl::Seconds(1);
constexpr absl::string_view kHashPrefix = "sha256:";

std::array<unsigned char, 32> Sha256(absl::string_view text) {
  std::array<unsigned char, 32> out;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), out.data());
  return out;
}

bool IsName(absl::string_view name) {
  return !name.empty() && name.size() <= 63 && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
  });
}

absl::Status Bad(int line, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("tcp.token_file line ", line, ": ", what));
}

}  // namespace

absl::StatusOr<TokenList> TokenList::Parse(std::string_view text) {
  TokenList list;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(absl::string_view(text.data(), text.size()), '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line.substr(0, line.find(" #")));
    if (line.empty() || line[0] == '#') continue;
    const std::vector<absl::string_view> words = absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    Token token;
    if (words.size() == 1) {
      if (line.size() < kMinTokenLength) {
        return Bad(number, absl::StrCat("holds ", line.size(), " characters; at least ", kMinTokenLength,
                                        " are needed, e.g. from `openssl rand -hex 32`"));
      }
      token = {"token", Sha256(line)};
    } else {
      absl::string_view hex = words[1];
      const bool hash = words.size() == 2 && absl::ConsumePrefix(&hex, kHashPrefix) && hex.size() == 64 &&
                        std::all_of(hex.begin(), hex.end(), absl::ascii_isxdigit);
      if (!hash || !IsName(words[0])) {
        return Bad(number, "must be one token, or NAME sha256:HEX as `finetuned --new-token NAME` writes it");
      }
      token.principal = absl::StrCat("token:", words[0]);
      const std::string bytes = absl::HexStringToBytes(hex);
      std::copy(bytes.begin(), bytes.end(), token.digest.begin());
    }
    for (const Token& other : list.tokens_) {
      if (other.principal == token.principal) return Bad(number, absl::StrCat(token.principal, " is given twice"));
    }
    list.tokens_.push_back(std::move(token));
  }
  if (list.tokens_.empty()) return absl::InvalidArgumentError("tcp.token_file holds no token");
  return list;
}

std::optional<std::string> TokenList::Find(std::string_view header) const {
  absl::string_view sent(header.data(), header.size());
  if (!absl::ConsumePrefix(&sent, "Bearer ") && !absl::ConsumePrefix(&sent, "bearer ")) return std::nullopt;
  const Digest digest = Sha256(sent);
  const Token* found = nullptr;
  for (const Token& token : tokens_) {  // all of them: the time tells nothing
    if (CRYPTO_memcmp(digest.data(), token.digest.data(), digest.size()) == 0) found = &token;
  }
  return found == nullptr ? std::nullopt : std::optional<std::string>(found->principal);
}

absl::StatusOr<NewToken> MakeToken(const std::string& name) {
  if (!IsName(name)) return absl::InvalidArgumentError("a token's name has 1 to 63 letters, digits, . _ or -");
  unsigned char bytes[32];
  if (RAND_bytes(bytes, sizeof bytes) != 1) return absl::InternalError("no random bytes");
  NewToken made;
  made.token = absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(bytes), sizeof bytes));
  const auto digest = Sha256(made.token);
  made.line = absl::StrCat(name, " ", kHashPrefix,
                           absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size())));
  return made;
}

absl::StatusOr<std::unique_ptr<TokenFile>> TokenFile::Open(std::string path) {
  std::unique_ptr<TokenFile> file(new TokenFile(std::move(path)));
  if (absl::Status status = file->Reload(); !status.ok()) return status;
  return file;
}

TokenFile::Stamp TokenFile::LookAt() const {
  struct stat info;
  if (stat(path_.c_str(), &info) != 0) return {};
  return {static_cast<int64_t>(info.st_ino), info.st_size, info.st_mtim.tv_sec * 1'000'000'000 + info.st_mtim.tv_nsec};
}

absl::Status TokenFile::ReloadLocked() {
  looked_at_ = absl::Now();
  stamp_ = LookAt();
  struct stat info;
  if (stat(path_.c_str(), &info) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("tcp.token_file ", path_, " cannot be read"));
  }
  if ((info.st_mode & 0077) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("tcp.token_file ", path_, " may be read by other users; set its mode to 0600"));
  }
  std::ifstream in(path_);
  std::stringstream text;
  text << in.rdbuf();
  auto tokens = TokenList::Parse(text.str());
  if (!tokens.ok()) return tokens.status();
  tokens_ = *std::move(tokens);
  return absl::OkStatus();
}

absl::Status TokenFile::Reload() {
  std::lock_guard lock(mutex_);
  return ReloadLocked();
}

std::optional<std::string> TokenFile::Find(std::string_view header) {
  std::lock_guard lock(mutex_);
  if (absl::Now() - looked_at_ >= kLookInterval) {
    looked_at_ = absl::Now();
    if (LookAt() != stamp_) {
      const absl::Status status = ReloadLocked();
      if (status.ok()) {
        LogInfo(absl::StrCat("tcp.token_file was read again: ", tokens_.size(), " tokens"));
      } else {
        LogWarning(absl::StrCat(status.message(), "; the tokens stay what they were"));
      }
    }
  }
  return tokens_.Find(header);
}

}  // namespace finetuned::auth
