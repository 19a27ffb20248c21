"""The example notebooks run from top to bottom against a real daemon and show what they promise: the quickstart with
SmolLM2, the others with a tiny model.

$FINETUNED_NOTEBOOK_OUT: a folder that keeps the executed notebooks.
"""

import os

import harness
import nbclient
import nbformat
import pytest
from conftest import BUILD_DIR

EXAMPLES = harness.ROOT / "clients/python/examples"


def outputs(cell, kind):
    """What a cell shows as `kind`, in order; updates of a display replace it."""
    return [o.data[kind] for o in cell.outputs if o.output_type != "stream" and kind in o.get("data", {})]


def run(name, server, folder, monkeypatch):
    """Executes a notebook; gives its code cells by their last line."""
    monkeypatch.setenv("FINETUNED_SERVER", server)
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    kernel = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3", resources=kernel).execute()
    if out := os.environ.get("FINETUNED_NOTEBOOK_OUT"):
        nbformat.write(notebook, f"{out}/{name}")
    return {c.source.strip().splitlines()[-1]: c for c in notebook.cells if c.cell_type == "code"}


@pytest.mark.skipif(not harness.have_model(), reason="SmolLM2 is not in .deps/models")
def test_the_quickstart_notebook_runs(tmp_path, monkeypatch):
    daemon = harness.Daemon(BUILD_DIR).start()
    cells = run("quickstart.ipynb", f"unix://{daemon.socket}", tmp_path, monkeypatch)
    (chart,) = outputs(cells["job.watch()"], "text/html")
    assert "SUCCEEDED" in chart and "<svg" in chart and "held-out loss" in chart and "6/6" in chart
    assert "would be accepted" in outputs(cells["ft.plan(**settings)"], "text/plain")[0]
    assert "learning_rate" in outputs(cells["both"], "text/html")[0]
    assert outputs(cells["both.plot();"], "image/png")
    assert (tmp_path / "pebble-adapter/adapter_model.safetensors").stat().st_size > 1_000_000
    assert daemon.terminate() == 0


def test_the_rewards_notebook_runs(server, tmp_path, monkeypatch):
    """With the tiny model: the notebook is about who computes what, not about what is learned."""
    cells = run("rewards.ipynb", server, tmp_path, monkeypatch)
    (said,) = [c for line, c in cells.items() if line.startswith("print(server.scored")]
    assert "96 completions scored, SUCCEEDED" in "".join(o.get("text", "") for o in said.outputs)
    assert "reward" in outputs(said, "text/html")[0]
    (plot,) = [c for line, c in cells.items() if line.startswith("job.plot(")]
    assert outputs(plot, "image/png")
