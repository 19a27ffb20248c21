#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <yaml-cpp/yaml.h>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace finetuned::config {

// Visitor of VisitFields that takes values from a YAML document. The first error is kept.
class Reader {
 public:
  Reader(const YAML::Node& root, std::string file_name);

  void Begin(const char* key);
  void End();
  void Field(const char* key, std::string& value);
  void Field(const char* key, bool& value);
  void Field(const char* key, std::vector<std::string>& value);
  void Field(const char* key, std::vector<int64_t>& value);
  void Field(const char* key, std::map<std::string, std::string>& value);
  template <typename Int>
  void Number(const char* key, Int& value, int64_t low, int64_t high) {
    int64_t read = value;
    Integer(key, &read, low, high);
    value = static_cast<Int>(read);
  }
  // An integer, or one with a unit: "512MiB", "20GB".
  void Bytes(const char* key, int64_t& value, int64_t low, int64_t high);
  // "90s", "15m", "1h30m"; 0 needs no unit.
  void Time(const char* key, absl::Duration& value, absl::Duration low, absl::Duration high);

  // Call after the visit: unknown keys of the top level are errors too.
  absl::Status Finish();

 private:
  struct Level {
    std::string key;                  // "" for the document
    YAML::Node node;
    std::vector<std::string> known;
  };
  // The node of `key`, undefined when it is not set. Null values count as not set.
  YAML::Node Find(const char* key);
  void Integer(const char* key, int64_t* value, int64_t low, int64_t high);
  void CheckUnknown(const Level& level);
  void Fail(const YAML::Node& node, const std::string& key, const std::string& what);
  void FailAtLine(int line, const std::string& key, const std::string& what);
  std::string Path(const std::string& key) const;
  bool Scalar(const YAML::Node& node, const char* key, const char* wanted);

  std::string file_;
  std::vector<Level> levels_;
  absl::Status status_;
};

}  // namespace finetuned::config
