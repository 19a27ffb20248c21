#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace finetuned::format {

// Reads fields of one JSON object. The first error is kept as status(); getters then answer their default. null counts
// as absent.
class HfFields {
 public:
  // `object` must outlive this. name: of the object in messages.
  HfFields(const nlohmann::json& object, std::string name) : object_(object), name_(std::move(name)) {}

  const absl::Status& status() const { return status_; }
  const std::string& name() const { return name_; }

  const nlohmann::json* Find(const char* key) const;
  bool IsNull(const char* key) const { return object_.contains(key) && object_[key].is_null(); }

  int64_t Int(const char* key, int64_t absent);
  int64_t RequiredInt(const char* key);
  double Number(const char* key, double absent);
  bool Bool(const char* key, bool absent);
  std::string String(const char* key, std::string absent);
  std::vector<int32_t> TokenIds(const char* key);       // an id or a list of them
  std::vector<float> Numbers(const char* key);          // a list
  std::vector<std::string> Strings(const char* key);    // a list

  // UNIMPLEMENTED, INVALID_ARGUMENT: "name: text".
  void Unsupported(absl::string_view text);
  void Invalid(absl::string_view text);
  // Keeps the error of an inner object.
  void Adopt(const absl::Status& status) {
    if (status_.ok()) status_ = status;
  }

 private:
  void Wrong(const char* key, const char* expected, const nlohmann::json& found);

  const nlohmann::json& object_;
  const std::string name_;
  absl::Status status_;
};

}  // namespace finetuned::format
