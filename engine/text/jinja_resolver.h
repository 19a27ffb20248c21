#pragma once

#include "absl/status/status.h"
#include "engine/text/jinja_ast.h"

namespace finetuned::text::jinja {

// Gives every variable of the template its place (VarRef) and every scope its loads, and looks up
// filters and tests. Names follow jinja2's compile-time rules: a name that a scope assigns is local
// to it and starts as a copy of the outer variable, a name that is only read refers to the nearest
// scope that knows it, and all others are input variables. INVALID_ARGUMENT for a filter or test
// that does not exist, unless it stands in a branch that may never run.
absl::Status ResolveNames(Template* parsed);

}  // namespace finetuned::text::jinja
