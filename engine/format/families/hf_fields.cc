#include "engine/format/families/hf_fields.h"

#include <limits>

#include "absl/strings/str_cat.h"

namespace finetuned::format {

using nlohmann::json;

const json* HfFields::Find(const char* key) const {
  const auto it = object_.find(key);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

int64_t HfFields::Int(const char* key, int64_t absent) {
  const json* value = Find(key);
  if (value == nullptr) return absent;
  if (!value->is_number_integer() || (value->is_number_unsigned() &&
                                      value->get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()})) {
    Wrong(key, "an integer", *value);
    return absent;
  }
  return value->get<int64_t>();
}

int64_t HfFields::RequiredInt(const char* key) {
  if (Find(key) == nullptr) Invalid(absl::StrCat(key, " is missing"));
  return Int(key, 0);
}

double HfFields::Number(const char* key, double absent) {
  const json* value = Find(key);
  if (value == nullptr) return absent;
  if (!value->is_number()) {
    Wrong(key, "a number", *value);
    return absent;
  }
  return value->get<double>();
}

bool HfFields::Bool(const char* key, bool absent) {
  const json* value = Find(key);
  if (value == nullptr) return absent;
  if (!value->is_boolean()) {
    Wrong(key, "true or false", *value);
    return absent;
  }
  return value->get<bool>();
}

std::string HfFields::String(const char* key, std::string absent) {
  const json* value = Find(key);
  if (value == nullptr) return absent;
  if (!value->is_string()) {
    Wrong(key, "a string", *value);
    return absent;
  }
  return value->get<std::string>();
}

std::vector<int32_t> HfFields::TokenIds(const char* key) {
  const json* value = Find(key);
  std::vector<int32_t> ids;
  if (value == nullptr) return ids;
  const json list = value->is_array() ? *value : json::array({*value});
  for (const json& item : list) {
    if (!item.is_number_integer() || item.get<int64_t>() < 0 ||
        item.get<int64_t>() > std::numeric_limits<int32_t>::max()) {
      Wrong(key, "a token id or a list of token ids", *value);
      return {};
    }
    ids.push_back(item.get<int32_t>());
  }
  return ids;
}

std::vector<float> HfFields::Numbers(const char* key) {
  const json* value = Find(key);
  std::vector<float> numbers;
  if (value == nullptr) return numbers;
  const json list = value->is_array() ? *value : json::array({*value});
  for (const json& item : list) {
    if (!item.is_number()) {
      Wrong(key, "a list of numbers", *value);
      return {};
    }
    numbers.push_back(item.get<float>());
  }
  return numbers;
}

std::vector<std::string> HfFields::Strings(const char* key) {
  const json* value = Find(key);
  std::vector<std::string> texts;
  if (value == nullptr) return texts;
  const json list = value->is_array() ? *value : json::array({*value});
  for (const json& item : list) {
    if (!item.is_string()) {
      Wrong(key, "a list of strings", *value);
      return {};
    }
    texts.push_back(item.get<std::string>());
  }
  return texts;
}

void HfFields::Unsupported(absl::string_view text) {
  if (status_.ok()) status_ = absl::UnimplementedError(absl::StrCat(name_, ": ", text));
}

void HfFields::Invalid(absl::string_view text) {
  if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(name_, ": ", text));
}

void HfFields::Wrong(const char* key, const char* expected, const json& found) {
  std::string text = found.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > 80) text = text.substr(0, 80) + "...";
  Invalid(absl::StrCat(key, ": expected ", expected, ", found ", text));
}

}  // namespace finetuned::format
