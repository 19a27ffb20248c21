#include "engine/format/strict_json.h"

#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace finetuned::format {
namespace {

using nlohmann::json;

// Builds the document from parser events; returning false stops the parser.
class Builder : public nlohmann::json_sax<json> {
 public:
  explicit Builder(const JsonLimits& limits) : limits_(limits) {}

  json& root() { return root_; }
  const std::string& error() const { return error_; }

  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(number_integer_t value) override { return Add(value); }
  bool number_unsigned(number_unsigned_t value) override { return Add(value); }
  bool number_float(number_float_t value, const string_t&) override { return Add(value); }
  bool string(string_t& value) override { return Add(std::move(value)); }
  bool binary(binary_t&) override { return Fail("binary value"); }
  bool start_object(size_t) override { return Push(json::object()); }
  bool start_array(size_t) override { return Push(json::array()); }
  bool end_object() override { return Pop(); }
  bool end_array() override { return Pop(); }

  bool key(string_t& value) override {
    if (open_.back()->contains(value)) {
      return Fail(absl::StrCat("duplicate key \"", absl::Utf8SafeCHexEscape(value), "\""));
    }
    key_ = std::move(value);
    return true;
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    return Fail(absl::StrCat("not valid JSON at byte ", position, ": ",
                             absl::Utf8SafeCHexEscape(error.what())));
  }

 private:
  bool Fail(std::string error) {
    if (error_.empty()) error_ = std::move(error);
    return false;
  }

  json* Insert(json value) {
    if (++values_ > limits_.max_values) {
      Fail(absl::StrCat("more than ", limits_.max_values, " values"));
      return nullptr;
    }
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    return &(parent[key_] = std::move(value));
  }

  bool Add(json value) { return Insert(std::move(value)) != nullptr; }

  bool Push(json value) {
    if (static_cast<int>(open_.size()) >= limits_.max_depth) {
      return Fail(absl::StrCat("nested deeper than ", limits_.max_depth));
    }
    json* inserted = Insert(std::move(value));
    if (inserted != nullptr) open_.push_back(inserted);
    return inserted != nullptr;
  }

  bool Pop() {
    open_.pop_back();
    return true;
  }

  const JsonLimits limits_;
  json root_;
  // Containers not yet closed. Stable: a parent grows only after its open child is closed.
  std::vector<json*> open_;
  std::string key_;
  std::string error_;
  size_t values_ = 0;
};

}  // namespace

absl::StatusOr<json> ParseStrictJson(absl::string_view text, absl::string_view name,
                                     const JsonLimits& limits) {
  Builder builder(limits);
  if (!json::sax_parse(text.begin(), text.end(), &builder)) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": ", builder.error()));
  }
  return std::move(builder.root());
}

}  // namespace finetuned::format
