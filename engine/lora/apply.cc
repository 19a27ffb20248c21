#include "engine/lora/apply.h"

#include <ATen/ATen.h>

#include "engine/plan/low_rank.h"
#include "kernels/dropout.h"
#include "kernels/gate_low_rank.h"
#include "kernels/low_rank_border.h"
#include "kernels/low_rank_gradients.h"

namespace finetuned::lora {
namespace {

at::Tensor Columns(const at::Tensor& x, int64_t first, int64_t count) {
  return x.narrow(1, first, count);
}

// gradient += scale * a b, with float32 results and sums also where a and b are 16-bit.
void AccumulateProduct(at::Tensor gradient, const at::Tensor& a, const at::Tensor& b,
                       double scale) {
  if (a.scalar_type() == at::kFloat) {
    gradient.addmm_(a, b, 1, scale);
  } else {
    at::addmm_out(gradient, gradient, a, b, at::kFloat, /*beta=*/1, /*alpha=*/scale);
  }
}

// Calls body(site, its first column of the fused output, its columns of u).
template <typename Body>
void ForEachSite(const Group& group, const at::Tensor& u_TG, const Body& body) {
  int64_t first = 0;
  for (size_t i = 0; i < group.sites.size(); ++i) {
    const Site& site = group.sites[i];
    const int64_t rank = site.compute_a_RI.size(0);
    body(site, group.first_column[i], Columns(u_TG, first, rank));
    first += rank;
  }
}

std::vector<kernels::LowRankGradientPart> GradientParts(const Group& group) {
  std::vector<kernels::LowRankGradientPart> parts;
  for (size_t i = 0; i < group.sites.size(); ++i) {
    parts.push_back({group.sites[i].compute_b_OR, group.sites[i].db_OR, group.first_column[i]});
  }
  return parts;
}

plan::LowRankSums SumsOf(const Group& group, int64_t rows) {
  std::vector<int64_t> widths;
  for (const Site& site : group.sites) widths.push_back(site.out);
  return plan::LowRankSumsOf(widths, group.sites[0].compute_b_OR.size(1), rows);
}

plan::LowRankSums GateSumsOf(const Group& group, const at::Tensor& dh_TF) {
  return plan::GateLowRankSumsOf(dh_TF.size(1), group.sites[0].compute_b_OR.size(1), dh_TF.size(0));
}

std::vector<kernels::LowRankPart> LowRankParts(const Group& group) {
  std::vector<kernels::LowRankPart> parts;
  for (size_t i = 0; i < group.sites.size(); ++i) {
    parts.push_back({group.sites[i].compute_b_OR, group.first_column[i]});
  }
  return parts;
}

}  // namespace

void ExtendWeight(const Group& group, double scaling, bool with_a, at::Tensor& extended) {
  if (group.sites.empty()) return;
  kernels::WriteLowRankBorder(extended, group.compute_a_GI, LowRankParts(group), scaling, with_a);
}

kernels::LowRankTerm LowRankTermOf(const Group& group, double scaling, const at::Tensor& u_TG) {
  return {u_TG, LowRankParts(group), scaling};
}

int64_t GradientSums(const Group& group, const at::Tensor& dy_TO) {
  if (group.sites.empty() || !kernels::LowRankGradientsFused(dy_TO, GradientParts(group))) return 0;
  return SumsOf(group, dy_TO.size(0)).elements;
}

void UpBackward(const Group& group, double scaling, const at::Tensor& dy_TO, const at::Tensor& u_TG,
                const at::Tensor& sums, at::Tensor& du_TG) {
  if (group.sites.empty()) return;
  const int64_t splits = SumsOf(group, dy_TO.size(0)).splits;
  kernels::LowRankGradients(dy_TO, u_TG, GradientParts(group), scaling, splits, sums, du_TG);
}

int64_t GateGradientSums(const Group& group, const at::Tensor& dh_TF, const at::Tensor& gate_up_T2F, const at::Tensor& u_TG) {
  if (group.sites.empty() || !kernels::GateLowRankFused(dh_TF, gate_up_T2F, u_TG, GradientParts(group))) return 0;
  return GateSumsOf(group, dh_TF).elements;
}

void GateUpBackward(const Group& group, double scaling, kernels::Gate gate, const at::Tensor& dh_TF, const at::Tensor& u_TG,
                    const at::Tensor& sums, at::Tensor& gate_up_T2F, at::Tensor& du_TG) {
  kernels::GateLowRankBackward(dh_TF, gate_up_T2F, u_TG, GradientParts(group), scaling, GateSumsOf(group, dh_TF).splits,
                               sums, du_TG, gate);
}

void AddDownGradients(const Group& group, const at::Tensor& du_TG, const at::Tensor& x_TI) {
  if (group.sites.empty()) return;
  if (!group.mixed) return AccumulateProduct(group.da_GI, du_TG.t(), x_TI, 1);
  int64_t first = 0;
  for (const Site& site : group.sites) {
    const int64_t rank = site.compute_a_RI.size(0);
    AccumulateProduct(site.da_RI, Columns(du_TG, first, rank).t(), x_TI, site.a_scale);
    first += rank;
  }
}

void Drop(const Site& site, const at::Tensor& x_TI, const DropoutKey& key, at::Tensor& out_TI) {
  const uint64_t offset =
      key.pass * static_cast<uint64_t>(key.sites) + static_cast<uint64_t>(site.index);
  if (!x_TI.is_same(out_TI)) out_TI.copy_(x_TI);  // rows of x may lie further apart
  kernels::DropoutForward(out_TI, key.p, key.seed, offset, out_TI, key.first_row * x_TI.size(1));
}

void Down(const Group& group, const at::Tensor& x_TI, const DropoutKey& key, at::Tensor& scratch_TI,
          at::Tensor& u_TG) {
  if (group.sites.empty()) return;
  if (key.p == 0) {
    at::mm_out(u_TG, x_TI, group.compute_a_GI.t());
    return;
  }
  int64_t first = 0;
  for (const Site& site : group.sites) {
    const int64_t rank = site.compute_a_RI.size(0);
    at::Tensor u = Columns(u_TG, first, rank);
    Drop(site, x_TI, key, scratch_TI);
    at::mm_out(u, scratch_TI, site.compute_a_RI.t());
    first += rank;
  }
}

void AddUp(const Group& group, double scaling, const at::Tensor& u_TG, const at::Tensor& y_TO) {
  ForEachSite(group, u_TG, [&](const Site& site, int64_t column, const at::Tensor& u) {
    Columns(y_TO, column, site.out).addmm_(u, site.compute_b_OR.t(), 1, scaling);
  });
}

void DownBackward(const Group& group, const at::Tensor& du_TG, const at::Tensor& x_TI, const DropoutKey& key,
                  at::Tensor& scratch_TI, at::Tensor& dx_TI) {
  if (group.sites.empty()) return;
  if (key.p == 0) {
    AddDownGradients(group, du_TG, x_TI);
    if (dx_TI.defined()) dx_TI.addmm_(du_TG, group.compute_a_GI);
    return;
  }
  ForEachSite(group, du_TG, [&](const Site& site, int64_t, const at::Tensor& du) {
    Drop(site, x_TI, key, scratch_TI);
    AccumulateProduct(site.da_RI, du.t(), scratch_TI, site.a_scale);
    if (!dx_TI.defined()) return;
    at::mm_out(scratch_TI, du, site.compute_a_RI);
    Drop(site, scratch_TI, key, scratch_TI);
    dx_TI.add_(scratch_TI);
  });
}

}  // namespace finetuned::lora
