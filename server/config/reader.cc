#include "server/config/reader.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/spec/nearest.h"

namespace finetuned::config {
namespace {

struct Unit {
  const char* name;
  int64_t bytes;
};
constexpr Unit kUnits[] = {{"KiB", int64_t{1} << 10}, {"MiB", int64_t{1} << 20}, {"GiB", int64_t{1} << 30},
                           {"TiB", int64_t{1} << 40}, {"KB", 1000},              {"MB", 1000000},
                           {"GB", 1000000000},        {"TB", 1000000000000}};

const char* Kind(const YAML::Node& node) {
  if (node.IsMap()) return "a mapping";
  if (node.IsSequence()) return "a list";
  return "a value";
}

bool ParseBytes(absl::string_view text, int64_t* bytes) {
  if (absl::SimpleAtoi(text, bytes)) return true;
  for (const Unit& unit : kUnits) {
    const absl::string_view name = unit.name;
    if (text.size() <= name.size() || text.substr(text.size() - name.size()) != name) continue;
    double amount = 0;
    const absl::string_view number = absl::StripAsciiWhitespace(text.substr(0, text.size() - name.size()));
    if (!absl::SimpleAtod(number, &amount) || !(amount >= 0 && amount * unit.bytes < 9e18)) return false;
    *bytes = static_cast<int64_t>(amount * static_cast<double>(unit.bytes));
    return true;
  }
  return false;
}

}  // namespace

Reader::Reader(const YAML::Node& root, std::string file_name) : file_(std::move(file_name)) {
  levels_.push_back({"", root, {}});
  if (root.IsDefined() && !root.IsNull() && !root.IsMap()) {
    Fail(root, "", absl::StrCat("the document must be a mapping of keys to values, it is ", Kind(root)));
  }
}

std::string Reader::Path(const std::string& key) const {
  std::string path;
  for (const Level& level : levels_) {
    if (!level.key.empty()) absl::StrAppend(&path, level.key, ".");
  }
  return path + key;
}

void Reader::FailAtLine(int line, const std::string& key, const std::string& what) {
  if (!status_.ok()) return;
  const std::string where = line > 0 ? absl::StrCat(file_, ":", line) : file_;
  const std::string path = Path(key);
  status_ = absl::InvalidArgumentError(path.empty() ? absl::StrCat(where, ": ", what)
                                                    : absl::StrCat(where, ": ", path, ": ", what));
}

void Reader::Fail(const YAML::Node& node, const std::string& key, const std::string& what) {
  FailAtLine(node.IsDefined() ? node.Mark().line + 1 : 0, key, what);
}

YAML::Node Reader::Find(const char* key) {
  Level& level = levels_.back();
  level.known.push_back(key);
  if (!status_.ok() || !level.node.IsDefined() || !level.node.IsMap()) {
    return YAML::Node(YAML::NodeType::Undefined);
  }
  const YAML::Node& map = level.node;
  const YAML::Node value = map[std::string(key)];
  return value.IsDefined() && !value.IsNull() ? value : YAML::Node(YAML::NodeType::Undefined);
}

void Reader::Begin(const char* key) {
  const YAML::Node node = Find(key);
  if (node.IsDefined() && !node.IsMap()) {
    Fail(node, key, absl::StrCat("must be a mapping of keys to values, it is ", Kind(node)));
  }
  levels_.push_back({key, node, {}});
}

void Reader::End() {
  CheckUnknown(levels_.back());
  levels_.pop_back();
}

void Reader::CheckUnknown(const Level& level) {
  if (!status_.ok() || !level.node.IsDefined() || !level.node.IsMap()) return;
  std::vector<std::string> seen;
  for (const auto& entry : level.node) {
    const std::string key = entry.first.Scalar();
    const int line = entry.first.Mark().line + 1;
    if (std::find(seen.begin(), seen.end(), key) != seen.end()) {
      return FailAtLine(line, key, "is given twice");
    }
    seen.push_back(key);
    if (std::find(level.known.begin(), level.known.end(), key) != level.known.end()) continue;
    const std::string near = spec::Nearest(key, level.known);
    return FailAtLine(line, key,
                      near.empty()
                          ? absl::StrCat("unknown key; known are ", absl::StrJoin(level.known, ", "))
                          : absl::StrCat("unknown key; did you mean ", near, "?"));
  }
}

absl::Status Reader::Finish() {
  CheckUnknown(levels_.back());
  return status_;
}

bool Reader::Scalar(const YAML::Node& node, const char* key, const char* wanted) {
  if (!node.IsDefined()) return false;
  if (node.IsScalar()) return true;
  Fail(node, key, absl::StrCat("must be ", wanted, ", it is ", Kind(node)));
  return false;
}

void Reader::Field(const char* key, std::string& value) {
  const YAML::Node node = Find(key);
  if (Scalar(node, key, "a text")) value = node.Scalar();
}

void Reader::Field(const char* key, bool& value) {
  const YAML::Node node = Find(key);
  if (!Scalar(node, key, "true or false")) return;
  if (node.Scalar() == "true" || node.Scalar() == "false") {
    value = node.Scalar() == "true";
  } else {
    Fail(node, key, absl::StrCat("must be true or false, it is \"", node.Scalar(), "\""));
  }
}

void Reader::Field(const char* key, std::vector<std::string>& value) {
  const YAML::Node node = Find(key);
  if (!node.IsDefined()) return;
  if (!node.IsSequence()) return Fail(node, key, absl::StrCat("must be a list, it is ", Kind(node)));
  value.clear();
  for (const YAML::Node& item : node) {
    if (!Scalar(item, key, "a list of texts")) return;
    value.push_back(item.Scalar());
  }
}

void Reader::Field(const char* key, std::vector<int64_t>& value) {
  const YAML::Node node = Find(key);
  if (!node.IsDefined()) return;
  if (!node.IsSequence()) return Fail(node, key, absl::StrCat("must be a list, it is ", Kind(node)));
  value.clear();
  for (const YAML::Node& item : node) {
    int64_t number = 0;
    if (!item.IsScalar() || !absl::SimpleAtoi(item.Scalar(), &number) || number < 0) {
      return Fail(item, key, "must be a list of whole numbers");
    }
    value.push_back(number);
  }
}

void Reader::Field(const char* key, std::map<std::string, std::string>& value) {
  const YAML::Node node = Find(key);
  if (!node.IsDefined()) return;
  if (!node.IsMap()) {
    return Fail(node, key, absl::StrCat("must be a mapping of names to paths, it is ", Kind(node)));
  }
  for (const auto& entry : node) {
    if (!Scalar(entry.second, key, "a mapping of names to paths")) return;
    value[entry.first.Scalar()] = entry.second.Scalar();
  }
}

void Reader::Integer(const char* key, int64_t* value, int64_t low, int64_t high) {
  const YAML::Node node = Find(key);
  if (!Scalar(node, key, "a whole number")) return;
  if (!absl::SimpleAtoi(node.Scalar(), value)) {
    return Fail(node, key, absl::StrCat("must be a whole number, it is \"", node.Scalar(), "\""));
  }
  if (*value < low || *value > high) {
    Fail(node, key, absl::StrCat("must be between ", low, " and ", high, ", it is ", *value));
  }
}

void Reader::Bytes(const char* key, int64_t& value, int64_t low, int64_t high) {
  const YAML::Node node = Find(key);
  if (!Scalar(node, key, "a number of bytes")) return;
  if (!ParseBytes(node.Scalar(), &value)) {
    return Fail(node, key,
                absl::StrCat("must be a number of bytes such as 1048576 or 20GiB, it is \"", node.Scalar(),
                             "\""));
  }
  if (value < low || value > high) {
    Fail(node, key, absl::StrCat("must be between ", low, " and ", high, " bytes, it is ", value));
  }
}

void Reader::Time(const char* key, absl::Duration& value, absl::Duration low, absl::Duration high) {
  const YAML::Node node = Find(key);
  if (!Scalar(node, key, "a duration")) return;
  if (!absl::ParseDuration(node.Scalar(), &value)) {
    return Fail(node, key, absl::StrCat("must be a duration such as 90s, 15m or 2h, it is \"",
                                        node.Scalar(), "\""));
  }
  if (value < low || value > high) {
    Fail(node, key,
         absl::StrCat("must be between ", absl::FormatDuration(low), " and ", absl::FormatDuration(high),
                      ", it is ", absl::FormatDuration(value)));
  }
}

}  // namespace finetuned::config
