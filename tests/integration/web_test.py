"""The page in the browser, served by a real daemon that trained: what it answers to whom, and, where Chromium is
installed, what it draws.

Usage: web_test.py BUILD_DIR [--picture FILE.png]
"""

import http.client
import json
import re
import shutil
import subprocess
import sys

import cli_test
import harness

CONFIG = cli_test.CONFIG + "web:\n  address: 127.0.0.1:0\n"


def ask(port, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read().decode()


def check_http(port):
    status, headers, page = ask(port, "/")
    assert status == 200 and "<title>finetuned</title>" in page
    assert "default-src 'none'" in headers["Content-Security-Policy"] and headers["X-Content-Type-Options"] == "nosniff"
    jobs = json.loads(ask(port, "/api/jobs")[2])["jobs"]
    assert [(job["name"], job["state"]) for job in jobs] == [("jobs/drawn", "SUCCEEDED")]
    series = json.loads(ask(port, "/api/jobs/drawn/metrics?keys=loss")[2])["series"]
    assert len(series[0]["values"]) == 6
    assert ask(port, "/", Host="rebound.example")[0] == 403
    assert ask(port, "/api/jobs", Sec_Fetch_Site="cross-site")[0] == 403
    assert ask(port, "/api/jobs", method="POST")[0] == 405
    assert ask(port, "/etc/passwd")[0] == 404


def check_browser(port, folder, picture):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        print("not looked at in a browser: Chromium is not installed")
        return
    common = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/chromium",
              "--enable-logging=stderr", "--virtual-time-budget=6000", "--window-size=1400,1500"]
    url = f"http://127.0.0.1:{port}/#drawn"
    done = subprocess.run([*common, "--dump-dom", url], capture_output=True, text=True, timeout=120)
    page = done.stdout
    assert re.search(r'<td class="SUCCEEDED">SUCCEEDED</td>', page), page
    assert page.count("<svg") >= 4, f"{page.count('<svg')} curves"
    assert "The measured peak (on the CPU that of the whole process) is" in page and re.search(r'<tbody id="buffers"><tr>', page)
    assert 'id="offline" hidden' in page
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not complaints, complaints
    if picture:
        subprocess.run([*common, f"--screenshot={picture}", url], check=True, capture_output=True, timeout=120)


def main():
    daemon = harness.Daemon(sys.argv[1], CONFIG).start()
    rows = daemon.dir / "rows.jsonl"
    cli_test.write_rows(rows, 12)
    daemon.cli("run", "sft", "--name", "drawn", "--model", cli_test.TINY, "--data", rows, "--eval", rows,
               "--eval-every", 2, "--micro-batch-size", 2, "--max-steps", 6)
    port = int(re.search(r"web page on port (\d+)", daemon.log())[1])
    check_http(port)
    check_browser(port, daemon.dir, sys.argv[3] if sys.argv[2:3] == ["--picture"] else None)
    assert daemon.terminate() == 0
    print("the page answers, reads only, and draws what the daemon knows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
