#include "engine/reward/args.h"

#include <cmath>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/reward/reward.h"
#include "proto/spec/nearest.h"

namespace finetuned::reward {

ArgumentReader::ArgumentReader(std::string reward, const std::map<std::string, std::string>& args)
    : reward_(std::move(reward)), args_(args) {}

const std::string* ArgumentReader::Find(const std::string& name) {
  known_.insert(name);
  const auto found = args_.find(name);
  if (found == args_.end()) return nullptr;
  Require(found->second.size() <= kMaxArgumentBytes, name,
          absl::StrCat("has ", found->second.size(), " bytes; the limit is ", kMaxArgumentBytes));
  return &found->second;
}

std::string ArgumentReader::Text(const std::string& name, std::string default_value) {
  const std::string* text = Find(name);
  return text == nullptr ? default_value : *text;
}

std::optional<double> ArgumentReader::Number(const std::string& name, double low, double high) {
  const std::string* text = Find(name);
  if (text == nullptr) return std::nullopt;
  double value = 0;
  const bool good =
      absl::SimpleAtod(*text, &value) && std::isfinite(value) && value >= low && value <= high;
  Require(good, name,
          absl::StrCat("must be a number from ", low, " to ", high, ", got \"", *text, "\""));
  return value;
}

bool ArgumentReader::Flag(const std::string& name) {
  const std::string* text = Find(name);
  bool value = false;
  Require(text == nullptr || absl::SimpleAtob(*text, &value), name,
          absl::StrCat("must be true or false, got \"", text == nullptr ? "" : *text, "\""));
  return value;
}

std::string ArgumentReader::OneOf(const std::string& name,
                                  const std::vector<std::string>& allowed) {
  const std::string* text = Find(name);
  if (text == nullptr) return allowed[0];
  for (const std::string& value : allowed) {
    if (value == *text) return value;
  }
  const std::string near = spec::Nearest(*text, allowed);
  Require(false, name,
          absl::StrCat("got \"", *text, "\"; allowed: ", absl::StrJoin(allowed, ", "),
                       near.empty() ? "" : absl::StrCat("; did you mean ", near, "?")));
  return allowed[0];
}

void ArgumentReader::Require(bool ok, const std::string& name, const std::string& problem) {
  if (ok || !status_.ok()) return;
  status_ = absl::InvalidArgumentError(
      absl::StrCat("reward ", reward_, ", argument ", name, ": ", problem));
}

absl::Status ArgumentReader::Finish() {
  const std::vector<std::string> known(known_.begin(), known_.end());
  for (const auto& [name, value] : args_) {
    if (known_.contains(name)) continue;
    const std::string near = spec::Nearest(name, known);
    Require(false, name,
            absl::StrCat("is unknown; the reward takes ", absl::StrJoin(known, ", "),
                         near.empty() ? "" : absl::StrCat("; did you mean ", near, "?")));
  }
  return status_;
}

}  // namespace finetuned::reward
