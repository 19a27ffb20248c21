#include "engine/text/bpe_tokenizer.h"

#include <algorithm>

#include "absl/status/status.h"
#include "engine/text/regex.h"
#include "engine/text/unicode.h"

namespace finetuned::text {
namespace {

class BpeTokenizer : public Tokenizer {
 public:
  explicit BpeTokenizer(TokenizerParts parts) : parts_(std::move(parts)), bpe_(std::move(parts_.model)) {
    for (const auto& [token, id] : bpe_.vocabulary()) SetToken(id, token);
    for (const AddedToken& t : parts_.raw_added) AddTo(&raw_, t);
    for (AddedToken t : parts_.normalized_added) {
      added_ids_[t.content] = t.id;
      MappedText m = MappedText::Of(t.content, 0, t.content.size());
      parts_.normalizer(&m);
      t.content = m.text;  // what is searched for, and what the reference decodes it to
      AddTo(&normalized_, t);
    }
  }

  absl::StatusOr<std::vector<Token>> Encode(std::string_view text, const EncodeOptions& options) const override {
    const size_t invalid = FindInvalidUtf8(text);
    if (invalid != std::string_view::npos) {
      return absl::InvalidArgumentError("the text is not UTF-8 at byte " + std::to_string(invalid));
    }
    std::vector<Token> out;
    try {
      if (options.add_special_tokens) AddAround(parts_.prefix, 0, &out);
      EncodeText(text, options.literal, &out);
      if (options.add_special_tokens) AddAround(parts_.suffix, text.size(), &out);
    } catch (const TokenizerError& e) {
      return absl::InvalidArgumentError(e.message);
    }
    return out;
  }

  std::string Decode(std::span<const int32_t> ids, bool skip_special) const override {
    std::vector<std::string> pieces;
    for (int32_t id : ids) {
      if (id < 0 || id >= vocabulary_size() || (skip_special && special_.count(id) > 0)) continue;
      pieces.push_back(tokens_[static_cast<size_t>(id)]);
    }
    parts_.decoder(&pieces);
    std::string out;
    for (const std::string& piece : pieces) out += piece;
    return out;
  }

  int32_t vocabulary_size() const override { return static_cast<int32_t>(tokens_.size()); }
  std::string IdToToken(int32_t id) const override {
    return id >= 0 && id < vocabulary_size() ? tokens_[static_cast<size_t>(id)] : "";
  }
  std::optional<int32_t> TokenToId(std::string_view token) const override {
    const auto it = added_ids_.find(std::string(token));
    if (it != added_ids_.end()) return it->second;
    const int32_t id = bpe_.Find(std::string(token));
    return id < 0 ? std::nullopt : std::optional<int32_t>(id);
  }
  std::optional<int32_t> bos() const override { return parts_.bos; }
  std::optional<int32_t> eos() const override { return parts_.eos; }
  std::optional<int32_t> pad() const override { return parts_.pad; }
  std::optional<int32_t> unk() const override { return parts_.unk; }

 private:
  void SetToken(int32_t id, const std::string& token) {
    if (tokens_.size() <= static_cast<size_t>(id)) tokens_.resize(static_cast<size_t>(id) + 1);
    tokens_[static_cast<size_t>(id)] = token;
  }

  void AddTo(AddedTokens* set, const AddedToken& token) {
    SetToken(token.id, token.content);
    added_ids_[token.content] = token.id;
    if (token.special) special_.insert(token.id);
    set->Add(token);
  }

  static void AddAround(const std::vector<int32_t>& ids, size_t at, std::vector<Token>* out) {
    for (int32_t id : ids) out->push_back({id, {at, at}});
  }

  void EncodeText(std::string_view text, std::span<const ByteRange> literal, std::vector<Token>* out) const {
    size_t at = 0;
    ByteRange match;
    while (const AddedToken* added = raw_.Find(text, at, literal, &match)) {
      EncodeSection(text, at, match.begin, literal, out);
      out->push_back({added->id, match});
      at = match.end;
    }
    EncodeSection(text, at, text.size(), literal, out);
  }

  // Literal ranges of the original text, in bytes of the normalized section.
  static std::vector<ByteRange> MapRanges(std::span<const ByteRange> literal, const MappedText& m) {
    std::vector<ByteRange> out;
    for (const ByteRange& r : literal) {
      const auto begin = std::lower_bound(m.from.begin(), m.from.end(), r.begin) - m.from.begin();
      const auto end = std::lower_bound(m.from.begin(), m.from.end(), r.end) - m.from.begin();
      if (begin < end) out.push_back({static_cast<size_t>(begin), static_cast<size_t>(end)});
    }
    return out;
  }

  void EncodeSection(std::string_view text, size_t begin, size_t end, std::span<const ByteRange> literal,
                     std::vector<Token>* out) const {
    if (begin >= end) return;
    MappedText m = MappedText::Of(text, begin, end);
    parts_.normalizer(&m);
    const std::vector<ByteRange> mapped = MapRanges(literal, m);
    size_t at = 0;
    ByteRange match;
    const auto original = [&](size_t i) { return i < m.from.size() ? m.from[i] : end; };
    while (const AddedToken* added = normalized_.Find(m.text, at, mapped, &match)) {
      EncodeWords(m, at, match.begin, end, out);
      out->push_back({added->id, {original(match.begin), original(match.end)}});
      at = match.end;
    }
    EncodeWords(m, at, m.text.size(), end, out);
  }

  // Tokens of normalized bytes [begin, end); `original_end` is where the section ends in the text.
  void EncodeWords(const MappedText& m, size_t begin, size_t end, size_t original_end,
                   std::vector<Token>* out) const {
    if (begin >= end) return;
    std::vector<Piece> pieces = {{m.Part(begin, end), false}};
    parts_.pre_tokenizer(&pieces);
    // Where the text after the last piece begins.
    const size_t after = end < m.from.size() ? m.from[end] : original_end;
    std::vector<size_t> next_start(pieces.size(), after);
    for (size_t k = pieces.size(); k-- > 1;) {
      next_start[k - 1] = pieces[k].part.text.empty() ? next_start[k] : pieces[k].part.from.front();
    }
    for (size_t k = 0; k < pieces.size(); ++k) {
      const MappedText& part = pieces[k].part;
      if (part.text.empty()) continue;
      size_t offset = 0;
      for (const Bpe::Symbol& s : bpe_.Encode(part.text, pieces[k].byte_level)) {
        const size_t stop = offset + s.bytes;
        out->push_back({s.id, {part.from[offset], stop < part.from.size() ? part.from[stop] : next_start[k]}});
        offset = stop;
      }
    }
  }

  TokenizerParts parts_;
  Bpe bpe_;
  AddedTokens raw_, normalized_;
  std::vector<std::string> tokens_;
  std::map<std::string, int32_t> added_ids_;
  std::set<int32_t> special_;
};

}  // namespace

std::shared_ptr<const Tokenizer> MakeTokenizer(TokenizerParts parts) {
  return std::make_shared<BpeTokenizer>(std::move(parts));
}

}  // namespace finetuned::text
