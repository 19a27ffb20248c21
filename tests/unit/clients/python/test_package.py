"""What is built and installed, and that the types hold."""

import pathlib
import subprocess
import sys
import zipfile

CLIENT = pathlib.Path(__file__).resolve().parents[4] / "clients/python"


def test_the_wheel_holds_generated_modules_and_no_more_than_it_needs(tmp_path):
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "-w",
            tmp_path,
            CLIENT,
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob("finetuned-*-py3-none-any.whl")
    target = tmp_path / "site"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(target)
        names = file.namelist()
    assert {"finetuned/v1/jobs_pb2.py", "finetuned/specs.py", "finetuned/py.typed"} <= set(names)
    # In isolation from the source folder, and without any of the optional libraries.
    blocked = "rich pandas matplotlib IPython ipywidgets pyarrow yaml mlflow wandb google_crc32c numpy"
    script = (
        "import sys\n"
        f"sys.path.insert(0, {str(target)!r})\n"
        f"for name in {blocked!r}.split(): sys.modules[name] = None\n"
        "import finetuned\n"
        f"assert finetuned.__file__.startswith({str(target)!r})\n"
        "from finetuned import _metrics, _rows, exporters\n"
        "for call in (lambda: _metrics.frame({}), lambda: _metrics.plot_series({}), \n"
        "             lambda: list(_rows._parquet_rows(__import__('pathlib').Path(sys.argv[1])))):\n"
        "    try: call()\n"
        '    except finetuned.MissingDependency as e: assert "pip install \'finetuned[" in str(e), e\n'
        "    else: raise SystemExit('no error')\n"
    )
    subprocess.run([sys.executable, "-I", "-c", script, str(wheel)], check=True)


def test_types_hold():
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--cache-dir", "/dev/null"],
        cwd=CLIENT,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stdout
