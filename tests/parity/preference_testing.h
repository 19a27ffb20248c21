// What the tests of DPO and KTO against TRL share: rows and goldens of tests/golden/preference.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "engine/data/dataset.h"
#include "engine/job/train_spec.h"
#include "engine/lora/adapter.h"

namespace finetuned::parity {

nlohmann::json PreferenceGolden(const std::string& name);

// The rows of a file there, tokenized with the tiny model's tokenizer.
data::TokenizedDataset PreferenceRows(const std::string& name, data::Method method);

// A run of the goldens with an adapter like `lora`: file order, no quantization; SetPreferenceOptions adds the options of
// its loss.
job::TrainSpec PreferenceSpec(const nlohmann::json& run, const lora::Options& lora);
void SetPreferenceOptions(const nlohmann::json& options, job::TrainSpec* spec);

}  // namespace finetuned::parity
