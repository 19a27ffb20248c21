"""Preference methods from Python: their rows, their metrics, their checks."""

import finetuned
import pytest
from conftest import QUICK
from finetuned import DpoSpec, KtoSpec

PAIRS = [{"prompt": f"what is {i}?", "chosen": f"{i}", "rejected": "no idea"} for i in range(12)]
LABELS = [{"prompt": f"what is {i}?", "completion": f"{i}", "label": i % 2 == 0} for i in range(12)]


def test_dpo_trains_on_pairs(ft):
    job = ft.submit(**QUICK | {"data": PAIRS, "dpo": DpoSpec(beta=0.2)}).wait()
    table = job.metrics("rewards/margins", "rewards/accuracies", "loss")
    assert job.method == "dpo" and len(table) == 12 and table["rewards/margins"].notna().all()
    assert table.loss[1] == pytest.approx(0.6931, abs=1e-3)  # the adapter starts as the reference: ln 2
    assert ft.dataset(job.spec["dataset"]).proto.method == "dpo"


def test_kto_trains_on_labels(ft):
    job = ft.submit(**QUICK | {"data": LABELS, "kto": KtoSpec(desirable_weight=1.5)}).wait()
    assert job.method == "kto" and len(job.metrics("loss")) == 12


def test_rows_of_another_method_are_refused_with_a_hint(ft):
    with pytest.raises(finetuned.DatasetInvalid, match="the row fits method dpo"):
        ft.submit(**QUICK | {"data": PAIRS})
