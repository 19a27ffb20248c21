#pragma once

#include "engine/job/tool_spec.h"
#include "engine/job/train_spec.h"

namespace finetuned::train {

// Writes spec.state_dir/export and checks it: the result is opened as any reader opens it, its tokenizer must give the
// same tokens, and its logits and perplexity are compared with base + adapter (held in the compute type). The folder
// appears whole or not at all; a run that is killed starts over. Never throws. Outcomes:
//   kDone          adapter_dir is the folder; final_metrics: max_logit_difference, perplexity, reference_perplexity,
//                  perplexity_increase, bytes. Of "peft" and "gguf_lora" files: max_tensor_difference.
//   kCheckpointed  control.leave; calling again starts over.
//   kCancelled     control.cancel; nothing is left.
//   kBadConfig     INVALID_SPEC, INVALID_MODEL, STATE_DIR_BUSY, INVALID_CONFIGURATION (the perplexity rises more than
//                  it may).
//   kBadData       INVALID_DATASET.
//   kInternal      DISK_FULL, OUT_OF_DEVICE_MEMORY, IO_ERROR, INTERNAL.
job::RunResult RunExport(const job::ExportSpec& spec, job::RunObserver& observer, job::RunControl& control);

}  // namespace finetuned::train
