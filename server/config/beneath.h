#pragma once

#include <optional>
#include <string>

namespace finetuned::config {

// The path without links, when it exists and leads below `root`, whatever links and .. it is made of. Of a folder every
// entry must lead below `root` too: a link planted in a model's folder opens nothing else. The kernel decides
// (openat2, RESOLVE_BENEATH); where it cannot (Linux before 5.6, a seccomp filter), names are compared.
std::optional<std::string> ResolveBeneath(const std::string& root, const std::string& path);

// The same, with the kernel's help or without; for tests.
std::optional<std::string> ResolveBeneathUsing(bool kernel, const std::string& root, const std::string& path);

}  // namespace finetuned::config
