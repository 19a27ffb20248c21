#pragma once

#include <istream>
#include <string>

namespace finetuned::cli {

// Hex SHA-256 of everything left in the stream.
std::string Sha256Hex(std::istream& in);

}  // namespace finetuned::cli
