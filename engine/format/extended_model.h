#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/format/model_source.h"

namespace finetuned::format {

// A base with tokens that its tokenizer did not have, behind the others, as transformers' add_tokens(tokens) and
// resize_token_embeddings(len(tokenizer)) make it; `path` is the base's. Rows that embedding and head lack are the mean of
// theirs (transformers draws them around it, with 1e-9 of the rows' covariance); a base with spare rows keeps its size.
// INVALID_ARGUMENT names a token that is empty, there twice or there already. Errors of the tokenizer's files.
absl::StatusOr<std::shared_ptr<const ModelSource>> WithNewTokens(std::shared_ptr<const ModelSource> base,
                                                                 const std::string& path,
                                                                 const std::vector<std::string>& tokens);

// The base of an adapter: OpenModel, and where a tokenizer with more tokens than the base's lies in the adapter's folder,
// with these. adapter_dir may be empty. Errors of both.
absl::StatusOr<std::shared_ptr<const ModelSource>> OpenModelFor(const std::string& path, const std::string& adapter_dir);

}  // namespace finetuned::format
