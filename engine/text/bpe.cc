#include "engine/text/bpe.h"

#include <cstdio>
#include <queue>

#include "engine/text/regex.h"
#include "engine/text/unicode.h"

namespace finetuned::text {
namespace {

constexpr size_t kMaxCachedWord = 256;
constexpr size_t kMaxCachedWords = 8192;  // in each of the caches

uint64_t Key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

std::pair<std::string, std::string> ParseMerge(const nlohmann::json& merge, size_t index) {
  if (merge.is_array() && merge.size() == 2) return {merge[0], merge[1]};
  if (merge.is_string()) {
    const std::string& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space != std::string::npos) return {text.substr(0, space), text.substr(space + 1)};
  }
  throw TokenizerError{false, "model.merges[" + std::to_string(index) + "] must be \"left right\" or a pair"};
}

}  // namespace

const std::array<std::string, 256>& ByteAlphabet() {
  static const auto* const kAlphabet = [] {
    auto* alphabet = new std::array<std::string, 256>;
    uint32_t next = 256;
    for (uint32_t b = 0; b < 256; ++b) {
      const bool visible = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      AppendUtf8(visible ? b : next++, &(*alphabet)[b]);
    }
    return alphabet;
  }();
  return *kAlphabet;
}

int ByteOf(uint32_t code_point) {
  static const auto* const kBytes = [] {
    auto* bytes = new std::unordered_map<uint32_t, int>;
    for (int b = 0; b < 256; ++b) (*bytes)[DecodeAt(ByteAlphabet()[static_cast<size_t>(b)], 0).value] = b;
    return bytes;
  }();
  const auto it = kBytes->find(code_point);
  return it == kBytes->end() ? -1 : it->second;
}

BpeModel ParseBpeModel(const nlohmann::json& j) {
  BpeModel model;
  const std::string type = j.value("type", std::string("BPE"));
  if (type != "BPE") {
    throw TokenizerError{true, "model.type " + type + " is not supported: only BPE tokenizers are"};
  }
  if (j.contains("dropout") && j["dropout"].is_number() && j["dropout"].get<double>() > 0) {
    throw TokenizerError{true, "model.dropout is not supported: tokens would differ from run to run"};
  }
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (j.contains(affix) && j[affix].is_string() && !j[affix].get<std::string>().empty()) {
      throw TokenizerError{true, std::string("model.") + affix + " is not supported"};
    }
  }
  for (const auto& [token, id] : j.at("vocab").items()) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= kMaxTokenId) {
      throw TokenizerError{false, "model.vocab[\"" + token + "\"] must be an id of 0 to " +
                                      std::to_string(kMaxTokenId - 1)};
    }
    model.vocabulary[token] = id.get<int32_t>();
  }
  size_t index = 0;
  for (const auto& merge : j.at("merges")) model.merges.push_back(ParseMerge(merge, index++));
  if (j.contains("unk_token") && j["unk_token"].is_string()) model.unknown = j["unk_token"];
  model.byte_fallback = j.value("byte_fallback", false);
  model.ignore_merges = j.value("ignore_merges", false);
  model.fuse_unknown = j.value("fuse_unk", false);
  return model;
}

Bpe::Bpe(BpeModel model) : model_(std::move(model)) {
  if (!model_.unknown.empty()) {
    unknown_ = Find(model_.unknown);
    if (unknown_ < 0) throw TokenizerError{false, "model.unk_token " + model_.unknown + " is not in the vocabulary"};
  }
  int32_t rank = 0;
  for (const auto& [left, right] : model_.merges) {
    const int32_t a = Find(left), b = Find(right), merged = Find(left + right);
    if (a < 0 || b < 0 || merged < 0) {
      throw TokenizerError{false, "model.merges[" + std::to_string(rank) + "] \"" + left + " " + right +
                                      "\" uses a token that is not in the vocabulary"};
    }
    merges_.emplace(Key(a, b), Merge{rank++, merged});
  }
  for (int b = 0; b < 256; ++b) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", b);
    fallback_[static_cast<size_t>(b)] = Find(name);
    byte_token_[static_cast<size_t>(b)] = Find(ByteAlphabet()[static_cast<size_t>(b)]);
  }
}

int32_t Bpe::Find(const std::string& token) const {
  const auto it = model_.vocabulary.find(token);
  return it == model_.vocabulary.end() ? -1 : it->second;
}

std::vector<Bpe::Symbol> Bpe::Encode(std::string_view word, bool byte_level) const {
  if (word.size() > kMaxCachedWord) return Compute(word, byte_level);
  std::string key(word);
  key += byte_level ? 'b' : 'u';
  Cache& cache = caches_[std::hash<std::string>()(key) % caches_.size()];
  {
    const std::lock_guard lock(cache.mutex);
    const auto it = cache.words.find(key);
    if (it != cache.words.end()) return it->second;
  }
  std::vector<Symbol> symbols = Compute(word, byte_level);
  const std::lock_guard lock(cache.mutex);
  if (cache.words.size() >= kMaxCachedWords) cache.words.clear();
  cache.words.emplace(std::move(key), symbols);
  return symbols;
}

std::vector<Bpe::Symbol> Bpe::Compute(std::string_view word, bool byte_level) const {
  std::vector<Symbol> out;
  if (model_.ignore_merges) {
    std::string whole;
    if (byte_level) {
      for (unsigned char c : word) whole += ByteAlphabet()[c];
    } else {
      whole = word;
    }
    const int32_t id = Find(whole);
    if (id >= 0) return {{id, static_cast<uint32_t>(word.size())}};
  }
  if (byte_level) {
    for (unsigned char c : word) {
      const int32_t id = byte_token_[c] >= 0 ? byte_token_[c] : unknown_;
      if (id >= 0) out.push_back({id, 1});
    }
  } else {
    bool last_unknown = false;
    for (size_t i = 0; i < word.size();) {
      const size_t n = DecodeAt(word, i).bytes;
      AppendCharacter(word.substr(i, n), &last_unknown, &out);
      i += n;
    }
  }
  ApplyMerges(&out);
  return out;
}

void Bpe::AppendCharacter(std::string_view character, bool* last_unknown, std::vector<Symbol>* out) const {
  const bool after_unknown = *last_unknown;
  *last_unknown = false;
  const auto bytes = static_cast<uint32_t>(character.size());
  const int32_t id = Find(std::string(character));
  if (id >= 0) {
    out->push_back({id, bytes});
    return;
  }
  bool fallback = model_.byte_fallback;
  for (unsigned char c : character) fallback &= fallback_[c] >= 0;
  if (fallback) {
    for (unsigned char c : character) out->push_back({fallback_[c], 1});
  } else if (unknown_ >= 0) {
    *last_unknown = true;
    if (model_.fuse_unknown && after_unknown) {
      out->back().bytes += bytes;
    } else {
      out->push_back({unknown_, bytes});
    }
  }
}

void Bpe::ApplyMerges(std::vector<Symbol>* symbols) const {
  struct Node {
    int previous, next;
    Symbol symbol;
  };
  struct Candidate {
    int32_t rank;
    int position;
    int32_t id;
    bool operator<(const Candidate& o) const {  // the queue's top is the largest
      return rank != o.rank ? rank > o.rank : position > o.position;
    }
  };
  const int n = static_cast<int>(symbols->size());
  if (n < 2) return;
  std::vector<Node> nodes(static_cast<size_t>(n));
  for (int i = 0; i < n; ++i) nodes[static_cast<size_t>(i)] = {i - 1, i + 1 < n ? i + 1 : -1, (*symbols)[static_cast<size_t>(i)]};
  const auto node = [&](int i) -> Node& { return nodes[static_cast<size_t>(i)]; };
  std::priority_queue<Candidate> queue;
  const auto consider = [&](int i) {
    if (i < 0 || node(i).next < 0) return;
    const auto it = merges_.find(Key(node(i).symbol.id, node(node(i).next).symbol.id));
    if (it != merges_.end()) queue.push({it->second.rank, i, it->second.id});
  };
  for (int i = 0; i + 1 < n; ++i) consider(i);
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    Node& left = node(top.position);
    if (left.symbol.bytes == 0 || left.next < 0) continue;  // merged away
    Node& right = node(left.next);
    const auto it = merges_.find(Key(left.symbol.id, right.symbol.id));
    if (it == merges_.end() || it->second.id != top.id) continue;  // a neighbour changed meanwhile
    left.symbol = {top.id, left.symbol.bytes + right.symbol.bytes};
    right.symbol.bytes = 0;
    left.next = right.next;
    if (right.next >= 0) node(right.next).previous = top.position;
    consider(left.previous);
    consider(top.position);
  }
  symbols->clear();
  for (int i = 0; i >= 0; i = node(i).next) symbols->push_back(node(i).symbol);
}

}  // namespace finetuned::text
