#pragma once

#include <string>
#include <vector>

#include <google/protobuf/message.h>
#include <yaml-cpp/yaml.h>

#include "absl/status/status.h"

namespace finetuned::spec {

// Fills protobuf messages from YAML by their descriptors: each scalar is read as the type its field
// wants, so `name: 123` is a string and `rank: abc` an error with its line.
class YamlReader {
 public:
  explicit YamlReader(std::string file_name) : file_(std::move(file_name)) {}

  // Keys of the mapping go to the first message that has such a field.
  absl::Status ReadInto(const YAML::Node& map, const std::vector<google::protobuf::Message*>& targets);

 private:
  absl::Status ReadField(const YAML::Node& node, google::protobuf::Message* message,
                         const google::protobuf::FieldDescriptor* field);
  absl::Status ReadOne(const YAML::Node& node, google::protobuf::Message* message,
                       const google::protobuf::FieldDescriptor* field, bool add);
  absl::Status ReadMap(const YAML::Node& node, google::protobuf::Message* message,
                       const google::protobuf::FieldDescriptor* field);
  absl::Status ReadMessage(const YAML::Node& node, google::protobuf::Message* message);
  absl::Status Error(const YAML::Node& node, const std::string& what) const;

  std::string file_;
  std::vector<std::string> path_;
  int nodes_ = 0;
};

}  // namespace finetuned::spec
