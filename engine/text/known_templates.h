#pragma once

#include <span>
#include <string_view>

namespace finetuned::text {

struct KnownTemplate {
  std::string_view original;  // as the model ships it
  std::string_view training;  // with {% generation %} markers
};

// The pairs in templates/, compiled in by known_templates.cmake.
std::span<const KnownTemplate> KnownTemplates();

}  // namespace finetuned::text
