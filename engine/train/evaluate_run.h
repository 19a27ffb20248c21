#pragma once

#include "engine/job/tool_spec.h"
#include "engine/job/train_spec.h"

namespace finetuned::train {

// Perplexity of a base, and of base + adapter where there is one, in every base format and matmul precision of the spec
// that go together (precisions other than "bf16" need "nf4" or "fp4"). Each is a step; its values go out as an evaluation:
// perplexity, loss, tokens, base_bytes, tokens_per_second. final_metrics hold perplexity/BASE/PRECISION, with "/adapter"
// for the adapter, and loss/... likewise. The numbers also lie in state_dir/evaluation/evaluation.json, which
// adapter_dir names the folder of. Never throws. Outcomes as RunExport; after kCheckpointed it starts over.
job::RunResult RunEvaluate(const job::EvaluateSpec& spec, job::RunObserver& observer, job::RunControl& control);

}  // namespace finetuned::train
