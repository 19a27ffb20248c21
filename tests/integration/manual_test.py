"""Runs the shell blocks of the manual against a real daemon, page by page.

    ```bash run           must succeed; the blocks of a page run in order, in one folder
    ```bash run fails     must fail
    ```jsonl file=NAME    is written to NAME first (so is yaml); other blocks are only text

Every relative link of every page must lead to a file.

Usage: manual_test.py BUILD_DIR [PAGE...]. Exit code 77: skipped, the model is not installed.
"""

import os
import pathlib
import re
import subprocess
import sys
import time

import harness

DOCS = harness.ROOT / "docs"
BLOCK = re.compile(r"^```(\w+)[ \t]+([^\n`]+)\n(.*?)^```$", re.M | re.S)


def check_links(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not re.match(r"\w+:", target):
            assert (page.parent / target).exists(), f"{page.name}: the link {target} leads nowhere"


def run_page(daemon, page):
    folder = daemon.dir / page.stem
    folder.mkdir()
    environment = {**os.environ, "FINETUNED_SERVER": f"unix://{daemon.socket}",
                   "PATH": f"{daemon.bin}:{os.environ['PATH']}"}
    count = 0
    for language, words, body in BLOCK.findall(page.read_text()):
        words = words.split()
        named = [word.removeprefix("file=") for word in words if word.startswith("file=")]
        if named:
            (folder / named[0]).write_text(body)
        elif language == "bash" and words[0] == "run":
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", body], cwd=folder, env=environment,
                                  capture_output=True, text=True, timeout=300)
            expected_failure = "fails" in words
            assert (done.returncode != 0) == expected_failure, (
                f"{page.name}: exit code {done.returncode} of\n{body}\n{done.stdout}{done.stderr}\n{daemon.log()}")
            count += 1
    return count


def main():
    pages = [DOCS / name for name in sys.argv[2:]] or sorted(DOCS.rglob("*.md")) + [harness.ROOT / "README.md"]
    for page in pages:
        check_links(page)
    if not harness.have_model():
        print("skipped: SmolLM2 is not in .deps/models (deploy/install_deps.sh --model)")
        return 77
    daemon = harness.Daemon(sys.argv[1]).start()
    total = 0
    for page in pages:
        start = time.time()
        count = run_page(daemon, page) if BLOCK.search(page.read_text()) else 0
        total += count
        if count:
            print(f"{page.name}: {count} blocks in {time.time() - start:.1f} s")
    assert total > 0
    assert daemon.terminate() == 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
