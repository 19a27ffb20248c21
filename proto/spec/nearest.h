#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace finetuned::spec {

// The candidate a misspelt word most likely stands for: smallest edit distance (insertion, deletion,
// substitution, swap of neighbours), at most a third of the word's length. Empty when none is near.
std::string Nearest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace finetuned::spec
