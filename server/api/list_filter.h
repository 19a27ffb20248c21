#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace finetuned::api {

// Terms joined by AND: `field = value`, `field != value`; values may be quoted. As in ListJobs.
class ListFilter {
 public:
  // `fields`: what may be compared; an entry that ends with "." takes any key after it ("labels.").
  // INVALID_ARGUMENT with what is allowed.
  static absl::StatusOr<ListFilter> Parse(const std::string& text, const std::vector<std::string>& fields);

  // `value_of` gives a field's value; nothing where the item has none.
  bool Matches(const std::function<std::optional<std::string>(const std::string&)>& value_of) const;

  struct Term {
    std::string field;
    bool equal = true;
    std::string value;
  };
  const std::vector<Term>& terms() const { return terms_; }

 private:
  std::vector<Term> terms_;
};

}  // namespace finetuned::api
