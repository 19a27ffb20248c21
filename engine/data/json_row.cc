#include "engine/data/json_row.h"

#include <algorithm>
#include <memory>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "engine/data/json_scanner.h"
#include "engine/data/text_util.h"

namespace finetuned::data {
namespace {

using text::Json;

// From this many keys on, an object looks up duplicates in a hash set.
constexpr size_t kManyKeys = 16;
constexpr size_t kMaxPathBytes = 160;
constexpr size_t kMaxInexact = 20;

struct Frame {
  bool is_object = false;
  Json* out = nullptr;                                     // null when the value is not kept
  std::string key;                                         // of the current member
  int64_t count = 0;                                       // members begun
  std::unique_ptr<absl::flat_hash_set<std::string>> keys;  // of a kept object with many keys
};

class RowParser {
 public:
  RowParser(std::string_view text, const JsonLimits& limits,
            const std::function<bool(std::string_view)>* keep)
      : scanner_(text), limits_(limits), keep_(keep) {}

  std::optional<JsonError> Parse(JsonRow* row) {
    row_ = row;
    scanner_.SkipSpace();
    bool good = BeginValue(&row->value);
    while (good && !frames_.empty()) good = Step();
    if (!good) return Failure();
    scanner_.SkipSpace();
    if (scanner_.AtEnd()) return std::nullopt;
    const size_t column = scanner_.Column();
    const bool another = scanner_.Peek() == '{';
    return JsonError{0, "", "TRAILING_CHARACTERS",
                     absl::StrCat(another ? "a second object follows" : "characters follow",
                                  " the end of the JSON value at column ", column,
                                  "; one object a line is needed")};
  }

 private:
  // Continues the innermost open array or object by one member, or closes it.
  bool Step() {
    Frame& frame = frames_.back();
    const char close = frame.is_object ? '}' : ']';
    scanner_.SkipSpace();
    if (scanner_.Accept(close)) {
      frames_.pop_back();
      return true;
    }
    if (frame.count > 0) {
      if (!scanner_.Accept(',')) {
        return scanner_.Unexpected(frame.is_object ? "\",\" or \"}\"" : "\",\" or \"]\"");
      }
      scanner_.SkipSpace();
      if (!scanner_.AtEnd() && scanner_.Peek() == close) {
        return scanner_.Fail("JSON_SYNTAX", "a comma before the closing bracket is not JSON");
      }
    }
    ++frame.count;
    return frame.is_object ? Member(&frame) : BeginValue(Element(&frame));
  }

  Json* Element(Frame* frame) {
    if (!frame->out) return nullptr;
    frame->out->get_ref<Json::array_t&>().emplace_back();
    return &frame->out->back();
  }

  bool Member(Frame* frame) {
    if (scanner_.AtEnd() || scanner_.Peek() != '"') return scanner_.Unexpected("a key in quotes");
    const size_t key_start = scanner_.position();
    frame->key.clear();
    if (!scanner_.String(&frame->key)) return false;
    if (IsDuplicate(frame)) {
      scanner_.Rewind(key_start);
      return scanner_.Fail("DUPLICATE_KEY",
                           absl::StrCat("the key ", Quoted(frame->key), " comes twice"));
    }
    Json* slot = nullptr;
    if (frame->out) {
      auto& object = frame->out->get_ref<Json::object_t&>();
      object.emplace_back(frame->key, Json());
      slot = &object.back().second;
      if (keep_ && frames_.size() == 1 && !(*keep_)(frame->key)) slot = nullptr;
    }
    scanner_.SkipSpace();
    if (!scanner_.Accept(':')) return scanner_.Unexpected("\":\"");
    scanner_.SkipSpace();
    return BeginValue(slot);
  }

  bool IsDuplicate(Frame* frame) {
    if (!frame->out) return false;
    const auto& object = frame->out->get_ref<const Json::object_t&>();
    if (object.size() < kManyKeys) {
      return std::any_of(object.begin(), object.end(),
                         [&](const auto& member) { return member.first == frame->key; });
    }
    if (!frame->keys) {
      frame->keys = std::make_unique<absl::flat_hash_set<std::string>>();
      for (const auto& member : object) frame->keys->insert(member.first);
    }
    return !frame->keys->insert(frame->key).second;
  }

  // Reads a scalar into `out` (null: reads over it), or opens an array or object.
  bool BeginValue(Json* out) {
    if (scanner_.AtEnd()) return scanner_.Unexpected("a value");
    if (out && ++values_ > limits_.max_values) {
      return scanner_.Fail("TOO_MANY_VALUES",
                           absl::StrCat("the row holds more than ", limits_.max_values, " values"));
    }
    const char c = scanner_.Peek();
    if (c == '{' || c == '[') return Open(out, c == '{');
    if (c == '"') {
      std::string text;
      if (!scanner_.String(out ? &text : nullptr)) return false;
      if (out) *out = std::move(text);
      return true;
    }
    bool exact = true;
    if (!scanner_.Scalar(out, &exact)) return false;
    if (!exact && out && row_->inexact_numbers.size() < kMaxInexact) {
      row_->inexact_numbers.push_back(Path(frames_.size()));
    }
    return true;
  }

  bool Open(Json* out, bool is_object) {
    if (static_cast<int>(frames_.size()) >= limits_.max_depth) {
      too_deep_ = true;
      return scanner_.Fail("NESTING_TOO_DEEP", absl::StrCat("arrays and objects nest more than ",
                                                            limits_.max_depth, " deep"));
    }
    scanner_.Accept(is_object ? '{' : '[');
    if (out) *out = is_object ? Json::object() : Json::array();
    frames_.emplace_back();
    frames_.back().is_object = is_object;
    frames_.back().out = out;
    return true;
  }

  // JSON path of the current member, of at most `depth` components.
  std::string Path(size_t depth) const {
    std::string path;
    for (size_t i = 0; i < std::min(depth, frames_.size()) && path.size() < kMaxPathBytes; ++i) {
      const Frame& frame = frames_[i];
      if (!frame.is_object) {
        absl::StrAppend(&path, "[", std::max<int64_t>(frame.count - 1, 0), "]");
      } else if (frame.count > 0) {
        absl::StrAppend(&path, path.empty() ? "" : ".", Printable(frame.key));
      }
    }
    return path;
  }

  JsonError Failure() const {
    return {0, Path(too_deep_ ? 1 : frames_.size()), scanner_.reason(), scanner_.message()};
  }

  JsonScanner scanner_;
  JsonLimits limits_;
  const std::function<bool(std::string_view)>* keep_;
  JsonRow* row_ = nullptr;
  std::vector<Frame> frames_;
  int64_t values_ = 0;
  bool too_deep_ = false;
};

}  // namespace

std::optional<JsonError> ParseJsonRow(std::string_view line, const JsonLimits& limits,
                                      const std::function<bool(std::string_view key)>& keep,
                                      JsonRow* row) {
  *row = JsonRow();
  const size_t start = line.find_first_not_of(" \t\r");
  const char first = start == std::string_view::npos ? '\0' : line[start];
  std::optional<JsonError> error;
  if (first == '[') {  // whatever it holds, an array is no row
    row->value = Json::array();
  } else {
    error = RowParser(line, limits, &keep).Parse(row);
  }
  if (error || row->value.is_object()) return error;
  return JsonError{0, "", "NOT_AN_OBJECT",
                   absl::StrCat("the line is ", TypeName(row->value),
                                ", but each line must be one JSON object")};
}

std::optional<JsonError> ParseJsonValue(std::string_view text, const JsonLimits& limits,
                                        Json* value) {
  JsonRow row;
  std::optional<JsonError> error = RowParser(text, limits, nullptr).Parse(&row);
  if (!error) *value = std::move(row.value);
  return error;
}

const char* TypeName(const Json& value) {
  if (value.is_null()) return "null";
  if (value.is_boolean()) return "a boolean";
  if (value.is_number()) return "a number";
  if (value.is_string()) return "a string";
  return value.is_array() ? "an array" : "an object";
}

}  // namespace finetuned::data
