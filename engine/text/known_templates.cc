#include "engine/text/known_templates.h"

#include <algorithm>
#include <string>

#include "engine/text/chat_template.h"

namespace finetuned::text {

std::string_view KnownTrainingTemplate(std::string_view source) {
  // The compiled-in texts have plain newlines; glm4moe is published with \r\n. Both mean the same.
  std::string wanted;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r' || source.substr(i + 1, 1) != "\n") wanted += source[i];
  }
  const auto known = KnownTemplates();
  const auto found = std::find_if(known.begin(), known.end(), [&wanted](const KnownTemplate& pair) {
    return pair.original == wanted;
  });
  return found == known.end() ? std::string_view() : found->training;
}

}  // namespace finetuned::text
