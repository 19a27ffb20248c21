// Weights that a file has quantized already, onto the device as they are.
#pragma once

#include <optional>

#include "engine/format/bnb_checkpoint.h"
#include "engine/model/stored_matrix.h"
#include "engine/model/weight_upload.h"

namespace finetuned::model {

// The format that keeps such a weight as it is.
plan::BaseFormat PackedFormat(const format::BnbWeight& weight);

// Codes, scales and tables of the file, nothing is rounded again. The spans may go away on return.
StoredMatrix UploadPacked(const format::BnbWeight& weight, WeightUpload& upload);

}  // namespace finetuned::model
