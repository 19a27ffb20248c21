#pragma once

#include <string>

#include "clients/cli/client.h"

namespace finetuned::cli {

// Uploads a JSONL file, going on where an earlier attempt stopped, and returns the validated dataset.
// `id` empty: made of the file's name and its sha256, so the same file is uploaded once. Shows progress
// on standard error when it is a terminal. Throws CommandError when the data are not valid, with the
// line of each error.
v1::Dataset UploadFile(const Client& client, const std::string& path, const std::string& method,
                       std::string id);

// "datasets/x" as it is; a path to a file is uploaded first (relative to `base_dir`).
std::string DatasetName(const Client& client, const std::string& name_or_path,
                        const std::string& method, const std::string& base_dir);

// Errors and warnings of a dataset, one line each: "line 3, output: ...".
std::string DescribeFindings(const v1::Dataset& dataset);

}  // namespace finetuned::cli
