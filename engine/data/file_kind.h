#pragma once

#include <optional>
#include <string_view>

#include "engine/data/dataset.h"

namespace finetuned::data {

// Names what a file is when its first bytes say that it is no UTF-8 text: UTF-16/32, gzip and other
// archives, Parquet, Arrow, SQLite. Nothing for what may be JSONL.
std::optional<RowError> WrongFileKind(std::string_view head);

// True when the first row of a file shows that the file is one JSON array instead of JSONL: a line
// that opens an array of objects or leaves the array open.
bool OpensJsonArray(std::string_view first_row);

}  // namespace finetuned::data
