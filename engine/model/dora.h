// DoRA: what the outputs of adapted linears are multiplied with (see lora/adapter.h).
#pragma once

#include <ATen/core/Tensor.h>

#include "engine/lora/adapter.h"
#include "engine/model/base_model.h"
#include "engine/model/workspace.h"

namespace finetuned::model {

// Brings norms and gains of a DoRA adapter up to its version; does nothing where they are, or without DoRA. scratch:
// memory for one dequantized weight, as PassContext::scratch. Takes dora.rows of the workspace. No host sync.
void RefreshGains(const BaseModel& base, const lora::Adapter& adapter, const at::Tensor& scratch, Workspace& workspace);

// Magnitudes of a new adapter: the norms of its rows, so that gains are 1.
void InitializeMagnitudes(const BaseModel& base, lora::Adapter& adapter, const at::Tensor& scratch,
                          Workspace& workspace);

}  // namespace finetuned::model
