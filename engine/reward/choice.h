#pragma once

#include <map>
#include <string>

namespace finetuned::reward {

// A built-in reward as a job asks for it.
struct Choice {
  std::string name;  // exact, numeric, regex, json_schema, length, format
  double weight = 1;
  std::map<std::string, std::string> args;
};

}  // namespace finetuned::reward
