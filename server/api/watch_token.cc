#include "server/api/watch_token.h"

#include "proto/spec/crc32c.h"
#include "server/api/error.h"

namespace finetuned::api {
namespace {

constexpr char kVersion = 1;
constexpr size_t kHeader = 1 + 4 + 8;
constexpr size_t kMaxToken = 128;

void Put(uint64_t value, int bytes, std::string* out) {
  for (int i = 0; i < bytes; ++i) out->push_back(static_cast<char>(value >> (8 * i)));
}

uint64_t Get(const std::string& in, size_t at, int bytes) {
  uint64_t value = 0;
  for (int i = 0; i < bytes; ++i) {
    value |= static_cast<uint64_t>(static_cast<unsigned char>(in[at + i])) << (8 * i);
  }
  return value;
}

}  // namespace

std::string EncodeWatchToken(const WatchToken& token) {
  std::string out(1, kVersion);
  Put(token.epoch, 4, &out);
  Put(static_cast<uint64_t>(token.sequence), 8, &out);
  out += token.job_uid;
  Put(spec::Crc32c(out), 4, &out);
  return out;
}

absl::StatusOr<WatchToken> DecodeWatchToken(const std::string& bytes) {
  const absl::Status bad = InvalidField("resume_token", "is not a token of this daemon, or is damaged");
  if (bytes.size() < kHeader + 4 || bytes.size() > kMaxToken || bytes[0] != kVersion) return bad;
  const size_t end = bytes.size() - 4;
  if (Get(bytes, end, 4) != spec::Crc32c(std::string_view(bytes).substr(0, end))) return bad;
  WatchToken token;
  token.epoch = static_cast<uint32_t>(Get(bytes, 1, 4));
  token.sequence = static_cast<int64_t>(Get(bytes, 5, 8));
  token.job_uid = bytes.substr(kHeader, end - kHeader);
  if (token.sequence < 0) return bad;
  return token;
}

}  // namespace finetuned::api
