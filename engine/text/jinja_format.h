#pragma once

#include <string>

#include "engine/text/jinja_runtime.h"

namespace finetuned::text::jinja {

std::string FloatRepr(double number);  // repr(number): shortest digits, 1e+16 from 16 digits on

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  bool indented = false;
  std::string indent;  // of one level
  std::string item_separator = ", ", key_separator = ": ";
};
// json.dumps(value): no HTML escaping, key order kept. If any string in the value came from the
// user, the whole result counts as user data.
Value ToJson(Runtime& runtime, const Value& value, const JsonStyle& style);

Value PercentFormat(Runtime& runtime, const Value& format, const Value& args);  // "%s" % args
Value BraceFormat(Runtime& runtime, const Value& format, CallArgs& args);       // "{}".format()

}  // namespace finetuned::text::jinja
