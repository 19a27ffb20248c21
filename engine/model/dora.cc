#include "engine/model/dora.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "engine/model/trained_modules.h"
#include "engine/plan/memory_plan.h"

namespace finetuned::model {
namespace {

// Norms of the rows of W + scaling * B A, in float32, some rows at a time.
void MeasureNorms(const at::Tensor& weight_OI, const lora::Site& site, Workspace& workspace) {
  for (int64_t first = 0; first < site.out; first += plan::kDoraRows) {
    const int64_t count = std::min(plan::kDoraRows, site.out - first);
    at::Tensor rows = workspace.Take("dora.rows", 0, {plan::kDoraRows, site.in}, at::kFloat).narrow(0, 0, count);
    rows.copy_(weight_OI.narrow(0, first, count));
    rows.addmm_(site.b_OR.narrow(0, first, count), site.a_RI, /*beta=*/1, /*alpha=*/site.scaling);
    at::Tensor norms = site.norm_O.narrow(0, first, count);
    at::linalg_vector_norm_out(norms, rows, 2, {1});
  }
  // A row of zeros stays one, whatever its magnitude.
  at::Tensor norms = site.norm_O;
  norms.clamp_min_(std::numeric_limits<float>::min());
}

template <typename Visit>
void ForEachGroup(const BaseModel& base, const lora::Adapter& adapter, const Visit& visit) {
  for (int64_t layer = 0; layer < adapter.layers(); ++layer) {
    for (int kind = 0; kind < lora::kGroups; ++kind) {
      const lora::Group& group = adapter.group(layer, static_cast<lora::GroupKind>(kind));
      if (!group.sites.empty()) visit(group, LinearOf(base.layers[layer], static_cast<lora::GroupKind>(kind)));
    }
  }
}

}  // namespace

void RefreshGains(const BaseModel& base, const lora::Adapter& adapter, const at::Tensor& scratch,
                  Workspace& workspace) {
  if (!adapter.options().use_dora || adapter.gains_version() == adapter.version()) return;
  ForEachGroup(base, adapter, [&](const lora::Group& group, const FrozenLinear& linear) {
    const at::Tensor weight = linear.Weight(scratch);
    for (size_t i = 0; i < group.sites.size(); ++i) {
      const lora::Site& site = group.sites[i];
      const int64_t column = group.first_column[i];
      MeasureNorms(weight.narrow(0, column, site.out), site, workspace);
      at::Tensor gain = group.gain_O.narrow(0, column, site.out);
      at::div_out(gain, site.magnitude_O, site.norm_O);
    }
  });
  adapter.gains_version() = adapter.version();
}

void InitializeMagnitudes(const BaseModel& base, lora::Adapter& adapter, const at::Tensor& scratch,
                          Workspace& workspace) {
  RefreshGains(base, adapter, scratch, workspace);
  for (const lora::Site& site : adapter.sites()) site.magnitude_O.copy_(site.norm_O);
  adapter.RefreshCompute();
}

}  // namespace finetuned::model
