"""What is installed: every file is there, no program carries a path of this machine, the manual page and the completions
belong to the client that was built, the configuration of the package is accepted.

Usage: package_test.py BUILD_DIR
"""

import gzip
import pathlib
import re
import subprocess
import sys
import tempfile

EXPECTED = [
    "usr/bin/finetune", "usr/bin/finetuned", "usr/bin/finetuned-install-libtorch",
    "usr/share/man/man1/finetune.1.gz", "usr/share/bash-completion/completions/finetune",
    "usr/share/zsh/vendor-completions/_finetune", "usr/share/fish/vendor_completions.d/finetune.fish",
    "usr/lib/systemd/system/finetuned.service", "usr/lib/sysusers.d/finetuned.conf", "usr/lib/tmpfiles.d/finetuned.conf",
    "usr/share/finetuned/prometheus.yml", "usr/share/finetuned/alert_rules.yml", "usr/share/finetuned/finetuned.json",
    "usr/share/finetuned/libtorch.txt", "usr/share/doc/finetuned/docs/index.md", "etc/finetuned/config.yaml",
    "usr/share/doc/finetuned/docs/memory_plan.svg", "usr/share/doc/finetuned/deploy/examples/sft.yaml",
]


def run(*args, **kwargs):
    return subprocess.run([str(a) for a in args], check=True, capture_output=True, text=True, **kwargs).stdout


def check_program(program, machine_paths):
    dynamic = run("readelf", "-d", program)
    runpath = re.search(r"R(?:UN)?PATH\)\s+Library \w+: \[(.*?)\]", dynamic)
    for entry in filter(None, runpath[1].split(":") if runpath else []):
        assert entry.startswith(("$ORIGIN/", "/usr/local/cuda/")), f"{program.name}: RUNPATH has {entry}"
    content = program.read_bytes()
    for path in machine_paths:
        assert path.encode() not in content, f"{program.name} holds the path {path}"


def main():
    build = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory(prefix="ft-package-") as folder:
        root = pathlib.Path(folder)
        run("cmake", "--install", build, "--prefix", "/usr", "--strip", env={"DESTDIR": folder, "PATH": "/usr/bin:/bin"})
        missing = [name for name in EXPECTED if not (root / name).exists()]
        assert not missing, f"not installed: {missing}"
        source = re.search(r"CMAKE_HOME_DIRECTORY:INTERNAL=(.*)", (build / "CMakeCache.txt").read_text())[1]
        programs = [p for p in (root / "usr/bin").iterdir() if p.read_bytes()[:4] == b"\x7fELF"]
        assert len(programs) >= 2
        for program in programs:
            check_program(program, [source + "/", str(build)])
        page = gzip.decompress((root / "usr/share/man/man1/finetune.1.gz").read_bytes()).decode()
        assert page == run(root / "usr/bin/finetune", "man") and ".SH EXIT STATUS" in page
        bash = root / "usr/share/bash-completion/completions/finetune"
        assert bash.read_text() == run(root / "usr/bin/finetune", "completion", "bash")
        run("bash", "-n", bash)
        run(root / "usr/bin/finetuned", "--check-config", "--config", root / "etc/finetuned/config.yaml")
    print("the installed tree is complete and carries no path of this machine")
    return 0


if __name__ == "__main__":
    sys.exit(main())
