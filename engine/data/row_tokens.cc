#include "engine/data/row_tokens.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace finetuned::data {
namespace {

using text::ByteRange;
using text::Token;

std::vector<uint8_t> TrainedTokens(const std::vector<Token>& tokens,
                                   const std::vector<ByteRange>& ranges) {
  std::vector<uint8_t> trained(tokens.size(), 0);
  size_t range = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const ByteRange& bytes = tokens[i].bytes;
    if (bytes.begin >= bytes.end) continue;  // added by the post-processor: stands for no text
    while (range < ranges.size() && ranges[range].end <= bytes.begin) ++range;
    trained[i] = range < ranges.size() && ranges[range].begin < bytes.end;
  }
  return trained;
}

bool HasTarget(const std::vector<uint8_t>& trained) {
  return trained.size() > 1 &&
         std::any_of(trained.begin() + 1, trained.end(), [](uint8_t t) { return t != 0; });
}

void Truncate(const TokenizeOptions& options, RowTokens* row) {
  const size_t limit = static_cast<size_t>(std::max<int64_t>(options.max_seq_length, 0));
  if (row->tokens.size() <= limit) return;
  row->truncated = true;
  if (options.truncation == Truncation::kKeepStart) {
    if (options.method == Method::kKto) {
      for (size_t i = limit; i < std::min(2 * limit, row->tokens.size()); ++i) {
        row->cut.push_back(row->tokens[i].id);
      }
    }
    row->tokens.resize(limit);
    row->trained.resize(limit);
  } else {
    const auto cut = static_cast<ptrdiff_t>(row->tokens.size() - limit);
    row->tokens.erase(row->tokens.begin(), row->tokens.begin() + cut);
    row->trained.erase(row->trained.begin(), row->trained.begin() + cut);
  }
}

}  // namespace

absl::StatusOr<RowTokens> TokenizeRow(const RowText& row, const text::Tokenizer& tokenizer,
                                      const TokenizeOptions& options) {
  text::EncodeOptions encode;
  encode.add_special_tokens = row.add_special_tokens;
  encode.literal = row.literal;
  auto tokens = tokenizer.Encode(row.text, encode);
  if (!tokens.ok()) return tokens.status();
  RowTokens out;
  out.tokens = *std::move(tokens);
  out.trained = TrainedTokens(out.tokens, row.trained);
  const auto eos = tokenizer.eos();
  const bool end_trains = !row.trained.empty() && row.trained.back().end == row.text.size();
  if (row.append_eos && eos) {
    if (out.tokens.empty() || out.tokens.back().id != *eos) {
      out.tokens.push_back({*eos, {row.text.size(), row.text.size()}});
      out.trained.push_back(end_trains);
    } else {
      out.trained.back() |= end_trains;  // an EOS of the post-processor stands for no text
    }
  }
  out.full_length = static_cast<int64_t>(out.tokens.size());
  const bool had_target = HasTarget(out.trained);
  const auto first = std::find(out.trained.begin(), out.trained.end(), 1);
  const int64_t prompt_tokens = first - out.trained.begin();
  Truncate(options, &out);
  if (HasTarget(out.trained)) return out;
  if (had_target) {
    out.drop_reason = "PROMPT_TOO_LONG";
    out.drop_message =
        absl::StrCat("the row has ", out.full_length, " tokens, ", prompt_tokens,
                     " of them before the first one to train on; cut to the limit of ",
                     options.max_seq_length, " none of those is left");
  } else {
    out.drop_reason = "NO_TRAINED_TOKENS";
    out.drop_message =
        absl::StrCat("none of the row's ", out.full_length, " tokens is one to train on");
  }
  return out;
}

}  // namespace finetuned::data
