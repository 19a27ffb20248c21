#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/spec/nearest.h"
#include "proto/spec/resolve.h"

namespace finetuned::spec {

using Names = std::vector<std::string>;

// Collects violations; the path of a field is below job.spec.
class Checker {
 public:
  explicit Checker(std::vector<Violation>* out) : out_(out) {}

  void Add(const std::string& field, std::string message) {
    out_->push_back({absl::StrCat("job.spec.", field), std::move(message)});
  }
  void Required(const std::string& field, const std::string& value, const std::string& example) {
    if (value.empty()) Add(field, absl::StrCat("is required, e.g. ", example));
  }
  void OneOf(const std::string& field, const std::string& value, const Names& allowed) {
    if (value.empty()) return;
    for (const std::string& name : allowed) {
      if (name == value) return;
    }
    const std::string near = Nearest(value, allowed);
    Add(field, absl::StrCat("got \"", value, "\"; allowed: ", absl::StrJoin(allowed, ", "),
                            near.empty() ? "" : absl::StrCat("; did you mean ", near, "?")));
  }
  // Zero means "not set" for plain integers.
  void Integer(const std::string& field, int64_t value, int64_t low, int64_t high) {
    if (value != 0 && (value < low || value > high)) {
      Add(field, absl::StrCat("must be ", low, " to ", high, ", got ", value));
    }
  }
  void Number(const std::string& field, double value, double low, double high, bool below_high = false) {
    const bool good = std::isfinite(value) && value >= low && (below_high ? value < high : value <= high);
    if (!good) {
      Add(field, absl::StrCat("must be at least ", low, below_high ? " and below " : " and at most ",
                              high, ", got ", value));
    }
  }

 private:
  std::vector<Violation>* out_;
};

}  // namespace finetuned::spec
