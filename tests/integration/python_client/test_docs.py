"""The code blocks of docs/python.md run in order, as a reader would type them."""

import re

import harness

PAGE = harness.ROOT / "docs/python.md"


def test_every_code_block_runs(server, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("FINETUNED_SERVER", server)
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text()
    names = {}
    for match in re.finditer(r"```python\n(.*?)```", text, re.DOTALL):
        line = text[: match.start(1)].count("\n")
        code = compile("\n" * line + match[1], str(PAGE), "exec")  # errors name the line of the page
        exec(code, names)
    said = capsys.readouterr().out
    for expected in ("did you mean lora.rank?", "line 1, messages[1].role - ", "optimizer.learning_rate", "[1.0, 0.0]"):
        assert expected in said
    assert names["job"].state == "SUCCEEDED" and (tmp_path / "pebble-adapter/adapter_config.json").exists()
    assert list((tmp_path / "runs/pebble").iterdir())


def test_the_page_names_only_what_exists():
    import finetuned

    methods = [re.sub(r"\(.*", "", m) for m in re.findall(r"`(?:job|ft)\.(\w+\([^`]*\))", PAGE.read_text())]
    assert len(methods) > 15
    for name in methods:
        assert hasattr(finetuned.Job, name) or hasattr(finetuned.Client, name), name
    for name in re.findall(r"`([A-Z]\w+)`", PAGE.read_text()):
        if name not in ("PeftModel", "Job", "SampleRequest", "ImportError", "ValueError"):
            assert issubclass(getattr(finetuned, name), finetuned.FinetunedError), name
