#include "proto/spec/job_file.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/stubs/common.h>
#include <google/protobuf/util/json_util.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "proto/spec/yaml_message.h"

namespace finetuned::spec {
namespace {

using nlohmann::ordered_json;

constexpr size_t kMaxFileBytes = 1 << 20;

std::string ToJson(const google::protobuf::Message& message, bool whitespace) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.add_whitespace = whitespace;
  std::string json;
  const auto status = google::protobuf::util::MessageToJsonString(message, &json, options);
  return status.ok() ? json : "{}";
}

void Emit(const ordered_json& value, YAML::Emitter& out) {
  switch (value.type()) {
    case ordered_json::value_t::object:
      out << YAML::BeginMap;
      for (const auto& [key, item] : value.items()) {
        out << YAML::Key << key << YAML::Value;
        Emit(item, out);
      }
      out << YAML::EndMap;
      break;
    case ordered_json::value_t::array:
      out << YAML::BeginSeq;
      for (const auto& item : value) Emit(item, out);
      out << YAML::EndSeq;
      break;
    case ordered_json::value_t::string: {
      // int64 values are JSON strings; they need no quotes here.
      const std::string& text = value.get_ref<const std::string&>();
      const bool escapes = std::any_of(text.begin(), text.end(), [](unsigned char c) {
        return (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f;  // no block of lines can hold these
      });
      if (escapes || text.ends_with(':')) {  // which yaml-cpp would leave plain, and reads as a key
        out << YAML::DoubleQuoted;
      } else if (text.find('\n') != std::string::npos) {
        out << YAML::Literal;
      }
      out << text;
      break;
    }
    default:
      out << value.dump();
  }
}

}  // namespace

absl::StatusOr<v1::Job> ParseJobFile(std::string_view text, const std::string& file_name) {
  if (text.size() > kMaxFileBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(file_name, " has ", text.size(), " bytes; at most ", kMaxFileBytes, " are read"));
  }
  if (!google::protobuf::internal::IsStructurallyValidUTF8(text.data(), static_cast<int>(text.size()))) {
    return absl::InvalidArgumentError(absl::StrCat(file_name, " is not UTF-8 text; save it as UTF-8"));
  }
  YAML::Node root;
  try {
    root = YAML::Load(std::string(text));
  } catch (const YAML::Exception& e) {
    return absl::InvalidArgumentError(
        absl::StrCat(file_name, " line ", e.mark.line + 1, ": ", e.msg));
  }
  if (!root.IsMap()) {
    return absl::InvalidArgumentError(absl::StrCat(file_name, " must be a mapping of fields"));
  }
  v1::Job job;
  YamlReader reader(file_name);
  const absl::Status status = reader.ReadInto(root, {&job, job.mutable_spec()});
  if (!status.ok()) return status;
  return job;
}

std::string MessageToJson(const google::protobuf::Message& message) { return ToJson(message, true); }

std::string MessageToYaml(const google::protobuf::Message& message) {
  YAML::Emitter out;
  Emit(ordered_json::parse(ToJson(message, false)), out);
  return std::string(out.c_str()) + "\n";
}

}  // namespace finetuned::spec
