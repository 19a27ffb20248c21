#include "engine/text/added_tokens.h"

#include <algorithm>

#include "engine/text/unicode.h"

namespace finetuned::text {
namespace {

bool Inside(std::span<const ByteRange> ranges, size_t begin, size_t end) {
  // The last range that begins at or before `begin`.
  auto it = std::upper_bound(ranges.begin(), ranges.end(), begin,
                             [](size_t at, const ByteRange& r) { return at < r.begin; });
  return it != ranges.begin() && std::prev(it)->end >= end;
}

bool WordBefore(std::string_view text, size_t at) {
  return at > 0 && IsWordCharacter(DecodeBefore(text, at).value);
}

bool WordAfter(std::string_view text, size_t at) {
  return at < text.size() && IsWordCharacter(DecodeAt(text, at).value);
}

}  // namespace

void AddedTokens::Add(AddedToken token) {
  if (token.content.empty()) return;
  starts_[static_cast<unsigned char>(token.content[0])] = true;
  int node = 0;
  for (unsigned char c : token.content) {
    auto [it, inserted] = trie_[static_cast<size_t>(node)].next.try_emplace(c, static_cast<int>(trie_.size()));
    node = it->second;
    if (inserted) trie_.emplace_back();
  }
  trie_[static_cast<size_t>(node)].token = static_cast<int>(tokens_.size());
  tokens_.push_back(std::move(token));
}

const AddedToken* AddedTokens::LongestAt(std::string_view text, size_t at, std::span<const ByteRange> literal,
                                         size_t* end) const {
  const AddedToken* best = nullptr;
  int node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    const auto& next = trie_[static_cast<size_t>(node)].next;
    const auto it = next.find(static_cast<unsigned char>(text[i]));
    if (it == next.end()) break;
    node = it->second;
    const int token = trie_[static_cast<size_t>(node)].token;
    if (token < 0) continue;
    const AddedToken& candidate = tokens_[static_cast<size_t>(token)];
    if (candidate.special && Inside(literal, at, i + 1)) continue;
    best = &candidate;
    *end = i + 1;
  }
  return best;
}

const AddedToken* AddedTokens::Find(std::string_view text, size_t at, std::span<const ByteRange> literal,
                                    ByteRange* match) const {
  for (size_t i = at; i < text.size(); ++i) {
    if (!starts_[static_cast<unsigned char>(text[i])]) continue;
    size_t end = 0;
    const AddedToken* token = LongestAt(text, i, literal, &end);
    if (token == nullptr) continue;
    if (token->single_word && (WordBefore(text, i) || WordAfter(text, end))) continue;
    size_t begin = i;
    while (token->lstrip && begin > at && IsWhitespace(DecodeBefore(text, begin).value)) {
      begin -= DecodeBefore(text, begin).bytes;
    }
    while (token->rstrip && end < text.size() && IsWhitespace(DecodeAt(text, end).value)) {
      end += DecodeAt(text, end).bytes;
    }
    *match = {begin, end};
    return token;
  }
  return nullptr;
}

}  // namespace finetuned::text
