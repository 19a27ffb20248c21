#include "engine/lora/apply.h"

#include <ATen/ATen.h>

#include "kernels/dropout.h"
#include "kernels/low_rank_border.h"

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

void Drop(const Site& site, const at::Tensor& x_TI, const DropoutKey& key, at::Tensor& out_TI) {
  const uint64_t offset =
      key.pass * static_cast<uint64_t>(key.sites) + static_cast<uint64_t>(site.index);
  if (!x_TI.is_same(out_TI)) out_TI.copy_(x_TI);  // rows of x may lie further apart
  kernels::DropoutForward(out_TI, key.p, key.seed, offset, out_TI, key.first_row * x_TI.size(1));
}

// Calls body(site, its columns of the fused output, its columns of u).
template <typename Body>
void ForEachSite(const Group& group, const at::Tensor& output_TO, const at::Tensor& u_TG,
                 const Body& body) {
  int64_t first = 0;
  for (size_t i = 0; i < group.sites.size(); ++i) {
    const Site& site = group.sites[i];
    const int64_t rank = site.compute_a_RI.size(0);
    body(site, Columns(output_TO, group.first_column[i], site.out), Columns(u_TG, first, rank));
    first += rank;
  }
}

// dB of every site.
void AddUpGradients(const Group& group, double scaling, const at::Tensor& dy_TO,
                    const at::Tensor& u_TG) {
  ForEachSite(group, dy_TO, u_TG, [&](const Site& site, const at::Tensor& dy, const at::Tensor& u) {
    AccumulateProduct(site.db_OR, dy.t(), u, scaling);
  });
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

void AddGradients(const Group& group, double scaling, const at::Tensor& dy_TO,
                  const at::Tensor& du_TG, const at::Tensor& x_TI, const at::Tensor& u_TG) {
  if (group.sites.empty()) return;
  AddUpGradients(group, scaling, dy_TO, u_TG);
  if (!group.mixed) return AccumulateProduct(group.da_GI, du_TG.t(), x_TI, 1);
  ForEachSite(group, dy_TO, du_TG, [&](const Site& site, const at::Tensor&, const at::Tensor& du) {
    AccumulateProduct(site.da_RI, du.t(), x_TI, site.a_scale);
  });
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
  ForEachSite(group, y_TO, u_TG, [&](const Site& site, at::Tensor y, const at::Tensor& u) {
    y.addmm_(u, site.compute_b_OR.t(), 1, scaling);
  });
}

void AddBackward(const Group& group, double scaling, const at::Tensor& dy_TO,
                 const at::Tensor& x_TI, const at::Tensor& u_TG, const DropoutKey& key,
                 at::Tensor& scratch_TI, at::Tensor& du_TG, at::Tensor& dx_TI) {
  if (group.sites.empty()) return;
  ForEachSite(group, dy_TO, du_TG, [&](const Site& site, const at::Tensor& dy, at::Tensor du) {
    at::addmm_out(du, du, dy, site.compute_b_OR, /*beta=*/0, /*alpha=*/scaling);
  });
  if (key.p == 0) {
    AddGradients(group, scaling, dy_TO, du_TG, x_TI, u_TG);
    if (dx_TI.defined()) dx_TI.addmm_(du_TG, group.compute_a_GI);
    return;
  }
  AddUpGradients(group, scaling, dy_TO, u_TG);
  ForEachSite(group, dy_TO, du_TG, [&](const Site& site, const at::Tensor&, const at::Tensor& du) {
    Drop(site, x_TI, key, scratch_TI);
    AccumulateProduct(site.da_RI, du.t(), scratch_TI, site.a_scale);
    if (!dx_TI.defined()) return;
    at::mm_out(scratch_TI, du, site.compute_a_RI);
    Drop(site, scratch_TI, key, scratch_TI);
    dx_TI.add_(scratch_TI);
  });
}

}  // namespace finetuned::lora
