#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace finetuned::reward {

// Reads the arguments of one reward. Keeps the first problem; Finish also refuses arguments that
// nobody asked for.
class ArgumentReader {
 public:
  ArgumentReader(std::string reward, const std::map<std::string, std::string>& args);

  std::string Text(const std::string& name, std::string default_value);
  std::optional<double> Number(const std::string& name, double low, double high);
  bool Flag(const std::string& name);  // default false
  std::string OneOf(const std::string& name,
                    const std::vector<std::string>& allowed);  // default: the first
  void Require(bool ok, const std::string& name, const std::string& problem);
  absl::Status Finish();

 private:
  const std::string* Find(const std::string& name);

  const std::string reward_;
  const std::map<std::string, std::string>& args_;
  std::set<std::string> known_;
  absl::Status status_;
};

}  // namespace finetuned::reward
