#include "clients/cli/preference_flags.h"

namespace finetuned::cli {

void AddDpoFlags(CLI::App* c, PreferenceFlags* f) {
  c->add_option("--beta", f->beta, "How strongly the reference holds (default 0.1)");
  c->add_option("--loss-type", f->loss_types, "sigmoid (default), ipo, hinge, robust, apo_zero, ...; several: a,b")
      ->delimiter(',');
  c->add_option("--loss-weights", f->loss_weights, "One per loss type (default 1)")->delimiter(',');
  c->add_option("--label-smoothing", f->label_smoothing, "Of robust, exo_pair and aot");
  c->add_flag("--precompute-reference", f->precompute_reference, "Run the reference once, before training");
  c->add_flag("--reference-free", f->reference_free, "Leave the reference out");
}

void AddKtoFlags(CLI::App* c, PreferenceFlags* f) {
  c->add_option("--beta", f->beta, "How strongly the reference holds (default 0.1)");
  c->add_option("--loss-type", f->loss_types, "kto (default) or apo_zero_unpaired")->expected(1);
  c->add_option("--desirable-weight", f->desirable_weight, "Weight of rows with label true (default 1)");
  c->add_option("--undesirable-weight", f->undesirable_weight, "Weight of rows with label false (default 1)");
  c->add_flag("--precompute-reference", f->precompute_reference, "Run the reference of the rows once, before training");
}

v1::DpoSpec DpoFromFlags(const PreferenceFlags& f) {
  v1::DpoSpec dpo;
  if (f.beta) dpo.set_beta(*f.beta);
  dpo.mutable_loss_type()->Assign(f.loss_types.begin(), f.loss_types.end());
  dpo.mutable_loss_weights()->Assign(f.loss_weights.begin(), f.loss_weights.end());
  dpo.set_label_smoothing(f.label_smoothing);
  dpo.set_precompute_reference(f.precompute_reference);
  dpo.set_reference_free(f.reference_free);
  return dpo;
}

v1::KtoSpec KtoFromFlags(const PreferenceFlags& f) {
  v1::KtoSpec kto;
  if (f.beta) kto.set_beta(*f.beta);
  if (!f.loss_types.empty()) kto.set_loss_type(f.loss_types.front());
  if (f.desirable_weight) kto.set_desirable_weight(*f.desirable_weight);
  if (f.undesirable_weight) kto.set_undesirable_weight(*f.undesirable_weight);
  kto.set_precompute_reference(f.precompute_reference);
  return kto;
}

}  // namespace finetuned::cli
