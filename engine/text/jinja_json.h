#pragma once

#include "engine/text/jinja_runtime.h"

namespace finetuned::text::jinja {

// A JSON document as template values; with `user`, its strings and keys count as user data.
// Fails for text that is not UTF-8, integers beyond 64 bits and nesting beyond the limit.
Value FromJsonValue(Runtime& runtime, const Json& json, bool user);

}  // namespace finetuned::text::jinja
