#include "proto/spec/yaml_message.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/duration.pb.h>
#include <google/protobuf/timestamp.pb.h>
#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/spec/nearest.h"

namespace finetuned::spec {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr int kMaxNodes = 100'000;
constexpr size_t kMaxDepth = 32;

// "90s", "1.5h", "500ms"; a bare number is seconds.
bool ParseDuration(std::string text, google::protobuf::Duration* out) {
  static constexpr struct {
    const char* suffix;
    double seconds;
  } kUnits[] = {{"ms", 1e-3}, {"s", 1}, {"m", 60}, {"h", 3600}, {"d", 86400}};
  double factor = 1;
  for (const auto& unit : kUnits) {
    const std::string suffix = unit.suffix;
    if (text.size() > suffix.size() && text.ends_with(suffix)) {
      factor = unit.seconds;
      text.resize(text.size() - suffix.size());
      break;
    }
  }
  double value = 0;
  if (!absl::SimpleAtod(text, &value) || !std::isfinite(value) || std::abs(value * factor) > 3e9) {
    return false;
  }
  *out = google::protobuf::util::TimeUtil::MillisecondsToDuration(std::llround(value * factor * 1000));
  return true;
}

bool ParseBool(const std::string& text, bool* out) {
  if (text == "true" || text == "false") {
    *out = text == "true";
    return true;
  }
  return false;
}

const FieldDescriptor* FindField(const Message& message, const std::string& key) {
  const FieldDescriptor* field = message.GetDescriptor()->FindFieldByName(key);
  return field != nullptr ? field : message.GetDescriptor()->FindFieldByCamelcaseName(key);
}

}  // namespace

absl::Status YamlReader::Error(const YAML::Node& node, const std::string& what) const {
  return absl::InvalidArgumentError(absl::StrCat(file_, " line ", node.Mark().line + 1,
                                                 path_.empty() ? "" : ", " + absl::StrJoin(path_, "."),
                                                 ": ", what));
}

absl::Status YamlReader::ReadInto(const YAML::Node& map, const std::vector<Message*>& targets) {
  if (!map.IsMap()) return Error(map, "a mapping of fields is needed");
  if (path_.size() > kMaxDepth) return Error(map, "nested too deep");
  std::vector<std::string> seen;
  for (const auto& entry : map) {
    const std::string key = entry.first.IsScalar() ? entry.first.Scalar() : "";
    Message* target = nullptr;
    std::vector<std::string> known;
    for (Message* candidate : targets) {
      if (target == nullptr && FindField(*candidate, key) != nullptr) target = candidate;
      for (int i = 0; i < candidate->GetDescriptor()->field_count(); ++i) {
        known.push_back(candidate->GetDescriptor()->field(i)->name());
      }
    }
    if (target == nullptr) {
      const std::string near = Nearest(key, known);
      return Error(entry.first, absl::StrCat("unknown key ", key,
                                             near.empty() ? "" : absl::StrCat("; did you mean ", near, "?")));
    }
    if (std::find(seen.begin(), seen.end(), key) != seen.end()) {
      return Error(entry.first, absl::StrCat("key ", key, " comes twice"));
    }
    seen.push_back(key);
    path_.push_back(key);
    const absl::Status status = ReadField(entry.second, target, FindField(*target, key));
    if (!status.ok()) return status;
    path_.pop_back();
  }
  return absl::OkStatus();
}

absl::Status YamlReader::ReadField(const YAML::Node& node, Message* message,
                                   const FieldDescriptor* field) {
  if (++nodes_ > kMaxNodes) return Error(node, absl::StrCat("more than ", kMaxNodes, " values"));
  if (node.IsNull()) return absl::OkStatus();
  if (const auto* oneof = field->real_containing_oneof()) {
    if (message->GetReflection()->HasOneof(*message, oneof)) {
      return Error(node, absl::StrCat("only one of ", oneof->name(), " may be set; ",
                                      message->GetReflection()->GetOneofFieldDescriptor(*message, oneof)->name(),
                                      " is set already"));
    }
  }
  if (field->is_map()) return ReadMap(node, message, field);
  if (!field->is_repeated()) return ReadOne(node, message, field, /*add=*/false);
  if (!node.IsSequence()) return ReadOne(node, message, field, /*add=*/true);
  for (const auto& item : node) {
    if (++nodes_ > kMaxNodes) return Error(node, absl::StrCat("more than ", kMaxNodes, " values"));
    const absl::Status status = ReadOne(item, message, field, /*add=*/true);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status YamlReader::ReadMap(const YAML::Node& node, Message* message,
                                 const FieldDescriptor* field) {
  if (!node.IsMap()) return Error(node, "a mapping is needed");
  for (const auto& entry : node) {
    if (++nodes_ > kMaxNodes) return Error(node, absl::StrCat("more than ", kMaxNodes, " values"));
    Message* item = message->GetReflection()->AddMessage(message, field);
    absl::Status status = ReadOne(entry.first, item, item->GetDescriptor()->map_key(), false);
    if (status.ok()) status = ReadOne(entry.second, item, item->GetDescriptor()->map_value(), false);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status YamlReader::ReadMessage(const YAML::Node& node, Message* message) {
  if (auto* duration = dynamic_cast<google::protobuf::Duration*>(message)) {
    if (node.IsScalar() && ParseDuration(node.Scalar(), duration)) return absl::OkStatus();
    return Error(node, "a duration is needed, e.g. 90s, 15m, 2h");
  }
  if (auto* time = dynamic_cast<google::protobuf::Timestamp*>(message)) {
    if (node.IsScalar() && google::protobuf::util::TimeUtil::FromString(node.Scalar(), time)) {
      return absl::OkStatus();
    }
    return Error(node, "a time is needed, e.g. 2026-01-31T18:00:00Z");
  }
  return ReadInto(node, {message});
}

absl::Status YamlReader::ReadOne(const YAML::Node& node, Message* message,
                                 const FieldDescriptor* field, bool add) {
  const auto* reflection = message->GetReflection();
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
    return ReadMessage(node, add ? reflection->AddMessage(message, field)
                                 : reflection->MutableMessage(message, field));
  }
  if (!node.IsScalar()) return Error(node, "a single value is needed");
  const std::string& text = node.Scalar();
  const auto bad = [&](const char* wanted) {
    return Error(node, absl::StrCat(wanted, " is needed, got \"", text, "\""));
  };
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      add ? reflection->AddString(message, field, text) : reflection->SetString(message, field, text);
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_BOOL: {
      bool value = false;
      if (!ParseBool(text, &value)) return bad("true or false");
      add ? reflection->AddBool(message, field, value) : reflection->SetBool(message, field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_INT32: {
      int32_t value = 0;
      if (!absl::SimpleAtoi(text, &value)) return bad("a whole number");
      add ? reflection->AddInt32(message, field, value) : reflection->SetInt32(message, field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_INT64: {
      int64_t value = 0;
      if (!absl::SimpleAtoi(text, &value)) return bad("a whole number");
      add ? reflection->AddInt64(message, field, value) : reflection->SetInt64(message, field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_UINT64: {
      uint64_t value = 0;
      if (!absl::SimpleAtoi(text, &value)) return bad("a whole number of at least 0");
      reflection->SetUInt64(message, field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      double value = 0;
      if (!absl::SimpleAtod(text, &value) || !std::isfinite(value)) return bad("a number");
      add ? reflection->AddDouble(message, field, value) : reflection->SetDouble(message, field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_ENUM: {
      const auto* value = field->enum_type()->FindValueByName(text);
      if (value == nullptr) return bad("a known name");
      reflection->SetEnum(message, field, value);
      return absl::OkStatus();
    }
    default:
      return Error(node, "this field cannot be set in a file");
  }
}

}  // namespace finetuned::spec
