#include "engine/text/known_templates.h"

#include <algorithm>

#include "engine/text/chat_template.h"

namespace finetuned::text {

std::string_view KnownTrainingTemplate(std::string_view source) {
  const auto known = KnownTemplates();
  const auto found = std::find_if(known.begin(), known.end(), [source](const KnownTemplate& pair) {
    return pair.original == source;
  });
  return found == known.end() ? std::string_view() : found->training;
}

}  // namespace finetuned::text
