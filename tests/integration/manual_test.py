"""Runs the shell blocks of the manual against a real daemon, page by page.

    ```bash run           must succeed; the blocks of a page run in order, in one folder
    ```bash run fails     must fail
    ```jsonl file=NAME    is written to NAME first (so is yaml); other blocks are only text

Every relative link of every page must lead to a file; every `finetune ...` in code, run or not, must be a command of the
client with flags that it has; yaml blocks without file= that are configuration must be accepted by the daemon but for files that only
the reader has.

Usage: manual_test.py BUILD_DIR [PAGE...]. Exit code 77: skipped, the model is not installed.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import harness

DOCS = harness.ROOT / "docs"
BLOCK = re.compile(r"^```(\w+)[ \t]+([^\n`]+)\n(.*?)^```$", re.M | re.S)


def check_links(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not re.match(r"\w+:", target):
            assert (page.parent / target).exists(), f"{page.name}: the link {target} leads nowhere"


class Client:
    """What the client's --help knows."""

    def __init__(self, build_dir):
        self.program = pathlib.Path(build_dir).resolve() / "bin/finetune"
        self.texts = {}
        self.commands = set(re.findall(r"^  ([a-z]+) ", self.help(), re.M))

    def help(self, *command):
        """None when there is no such command."""
        if command not in self.texts:
            done = subprocess.run([self.program, *command, "--help"], capture_output=True, text=True)
            self.texts[command] = done.stdout if done.returncode == 0 else None
        return self.texts[command]

    def problem(self, words):
        """What is wrong with `finetune WORDS...`, or None. Values of flags are not looked at."""
        while words and words[0].startswith("--"):  # of the client itself, with their values
            words = words[2:]
        if not words or not re.fullmatch(r"[a-z]+", words[0]):
            return None
        if words[0] not in self.commands:
            return f"no command {words[0]}"
        text = self.help(*words[:2]) if words[0] == "run" and len(words) > 1 else self.help(words[0])
        for flag in re.findall(r"(?<![^ \[(])-{1,2}[A-Za-z][a-z0-9-]*", " ".join(words[1:])):
            if not re.search(rf"(?<![\w-]){flag}(?![\w-])", text or ""):
                return f"no flag {flag}"
        return None


def check_commands(client, page):
    """Returns how many there were."""
    text = page.read_text()
    code = [body for _, body in re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.M | re.S)]
    code += re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    count = 0
    for piece in code:
        for line in piece.replace("\\\n", " ").splitlines():
            for command in re.findall(r"(?<![\w/.-])finetune ([^#;|>]*)", line):
                problem = client.problem(command.replace("'", "").split())
                assert problem is None, f"{page.name}: {problem}: finetune {command}"
                count += 1
    return count


def check_configuration(build_dir, page):
    """Blocks of the daemon's configuration, by their first key."""
    for body in re.findall(r"^```yaml\n(.*?)^```$", page.read_text(), re.M | re.S):
        if re.match(r"(state_dir|socket|models|tcp|worker|slurm|web|metrics|access|quotas):", body):
            with tempfile.TemporaryDirectory() as folder:
                file = pathlib.Path(folder) / "config.yaml"
                file.write_text(body)
                done = subprocess.run([pathlib.Path(build_dir) / "bin/finetuned", "--check-config", "--config", file],
                                      capture_output=True, text=True)
            only_absent = re.search(r"does not exist|cannot be read", done.stderr)  # files of the reader's machine
            assert done.returncode == 0 or only_absent, f"{page.name}:\n{body}{done.stderr}"


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
    client = Client(sys.argv[1])
    commands = 0
    for page in pages:
        check_links(page)
        commands += check_commands(client, page)
        check_configuration(sys.argv[1], page)
    print(f"{commands} commands of {len(pages)} pages exist, with their flags")
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
