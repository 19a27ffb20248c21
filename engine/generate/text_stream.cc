#include "engine/generate/text_stream.h"

#include <algorithm>
#include <span>

#include "absl/strings/match.h"

namespace finetuned::generate {
namespace {

constexpr char kReplacement[] = "\xef\xbf\xbd";  // U+FFFD: bytes that are no character yet

}  // namespace

TextStream::TextStream(const text::Tokenizer* tokenizer, std::vector<std::string> stop)
    : tokenizer_(tokenizer), stop_(std::move(stop)) {}

std::string TextStream::Add(int32_t token) {
  if (stopped_) return "";
  ids_.push_back(token);
  const std::span<const int32_t> ids(ids_);
  const std::string before = tokenizer_->Decode(ids.subspan(begin_, shown_ - begin_), /*skip_special=*/true);
  const std::string now = tokenizer_->Decode(ids.subspan(begin_), /*skip_special=*/true);
  if (now.size() <= before.size() || absl::EndsWith(now, kReplacement)) return Certain();
  held_ += now.substr(before.size());
  begin_ = shown_;
  shown_ = ids_.size();
  return Certain();
}

std::string TextStream::Certain() {
  size_t end = std::string::npos;
  for (const std::string& stop : stop_) end = std::min(end, held_.find(stop));
  if (end != std::string::npos) {
    stopped_ = true;
    held_.resize(end);
    return std::move(held_);
  }
  // The longest end of the text that begins a stop string.
  size_t kept = 0;
  for (const std::string& stop : stop_) {
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > kept; --n) {
      if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) kept = n;
    }
  }
  std::string out = held_.substr(0, held_.size() - kept);
  held_.erase(0, out.size());
  return out;
}

std::string TextStream::Finish() {
  if (stopped_) return "";
  const std::span<const int32_t> ids(ids_);
  const std::string before = tokenizer_->Decode(ids.subspan(begin_, shown_ - begin_), true);
  const std::string now = tokenizer_->Decode(ids.subspan(begin_), true);
  std::string rest = std::move(held_);
  if (now.size() > before.size()) rest += now.substr(before.size());
  begin_ = shown_ = ids_.size();
  held_.clear();
  return rest;
}

}  // namespace finetuned::generate
