#include "server/config/config.h"

#include <cerrno>
#include <fstream>
#include <sstream>
#include <system_error>

#include <yaml-cpp/yaml.h>

#include "absl/strings/str_cat.h"
#include "server/config/fields.h"
#include "server/config/reader.h"

namespace finetuned::config {
namespace {

// Writes YAML. Texts are quoted by the emitter when YAML asks for it.
class Printer {
 public:
  Printer() { out_ << YAML::BeginMap; }
  void Begin(const char* key) { out_ << YAML::Key << key << YAML::Value << YAML::BeginMap; }
  void End() { out_ << YAML::EndMap; }
  void Field(const char* key, const std::string& value) {
    Key(key);
    if (value.empty()) {
      out_ << YAML::DoubleQuoted << value;
    } else {
      out_ << value;
    }
  }
  void Field(const char* key, bool value) { Key(key) << value; }
  template <typename T>
  void Field(const char* key, const std::vector<T>& values) {
    Key(key) << YAML::Flow << YAML::BeginSeq;
    for (const T& value : values) out_ << value;
    out_ << YAML::EndSeq;
  }
  void Field(const char* key, const std::map<std::string, std::string>& values) {
    Key(key) << YAML::BeginMap;
    for (const auto& [name, path] : values) out_ << YAML::Key << name << YAML::Value << path;
    out_ << YAML::EndMap;
  }
  void Number(const char* key, int64_t value, int64_t, int64_t) { Key(key) << value; }
  void Bytes(const char* key, int64_t value, int64_t, int64_t) { Key(key) << value; }
  void Time(const char* key, absl::Duration value, absl::Duration, absl::Duration) {
    Key(key) << absl::FormatDuration(value);
  }
  std::string Finish() {
    out_ << YAML::EndMap;
    return absl::StrCat(out_.c_str(), "\n");
  }

 private:
  YAML::Emitter& Key(const char* key) { return out_ << YAML::Key << key << YAML::Value; }
  YAML::Emitter out_;
};

class Lister {
 public:
  void Begin(const char* key) { section_ = absl::StrCat(key, "."); }
  void End() { section_.clear(); }
  template <typename T>
  void Field(const char* key, const T&) { keys.push_back(section_ + key); }
  void Number(const char* key, int64_t, int64_t, int64_t) { keys.push_back(section_ + key); }
  void Bytes(const char* key, int64_t, int64_t, int64_t) { keys.push_back(section_ + key); }
  void Time(const char* key, absl::Duration, absl::Duration, absl::Duration) {
    keys.push_back(section_ + key);
  }
  std::vector<std::string> keys;

 private:
  std::string section_;
};

}  // namespace

absl::StatusOr<Config> ParseConfig(const std::string& text, const std::string& file_name) {
  Config config = DefaultConfig();
  try {
    Reader reader(YAML::Load(text), file_name);
    VisitFields(reader, config);
    if (absl::Status status = reader.Finish(); !status.ok()) return status;
  } catch (const YAML::Exception& e) {
    return absl::InvalidArgumentError(absl::StrCat(file_name, ":", e.mark.line + 1, ": not YAML: ", e.msg));
  }
  return config;
}

absl::StatusOr<Config> LoadConfig(const std::string& file_name) {
  std::ifstream file(file_name, std::ios::binary);
  if (!file) {
    return absl::NotFoundError(absl::StrCat(file_name, ": the configuration cannot be read: ",
                                            std::generic_category().message(errno)));
  }
  std::ostringstream text;
  text << file.rdbuf();
  return ParseConfig(text.str(), file_name);
}

std::string PrintConfig(const Config& config) {
  Printer printer;
  VisitFields(printer, config);
  return printer.Finish();
}

std::vector<std::string> ConfigKeys() {
  Lister lister;
  const Config config;
  VisitFields(lister, config);
  return lister.keys;
}

}  // namespace finetuned::config
