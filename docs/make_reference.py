#!/usr/bin/env python3
"""Writes docs/reference: every configuration key, job field and metric, from the sources that define them.

Usage: make_reference.py          write the pages
       make_reference.py --check  exit 1 when a page is not what this script writes

Configuration: the order and ranges of server/config/fields.h, the comments and defaults of server/config/config.h.
Job fields: the comments of proto/finetuned/v1/{jobs,spec}.proto. Metrics: server/metrics, with the alerts and
panels that use them.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs/reference"
HEADER = "<!-- Written by docs/make_reference.py; change the sources it names, not this page. -->\n"

sys.path.insert(0, str(ROOT / "deploy/grafana"))
import make_dashboard  # noqa: E402


def cell(text):
    return text.replace("|", "\\|").replace("\n", " ").strip()


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(map(cell, row)) + " |" for row in rows]) + "\n"


# ---- configuration

UNITS = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]


def size(number):
    for unit, name in UNITS:
        if number and number % unit == 0:
            return f"{number // unit}{name}"
    return str(number)


def value(text):
    """A C++ initializer as YAML writes it."""
    text = text.strip()
    duration = re.fullmatch(r"absl::(Milliseconds|Seconds|Minutes|Hours)\((\d+)\)", text)
    if duration:
        return duration[2] + {"Milliseconds": "ms", "Seconds": "s", "Minutes": "m", "Hours": "h"}[duration[1]]
    shift = re.fullmatch(r"(?:int64_t\{(\d+)\}|(\d+)) << (\d+)", text)
    if shift:
        return size(int(shift[1] or shift[2]) << int(shift[3]))
    return text.strip('"')


def config_structs():
    """Struct -> member -> (default, comment)."""
    structs, current, above = {}, None, []
    for line in (ROOT / "server/config/config.h").read_text().splitlines():
        start = re.match(r"struct (\w+) \{", line)
        if start:
            current, above = structs.setdefault(start[1], {}), []
        elif line.startswith("}"):
            current = None
        elif current is not None:
            comment = re.match(r"\s*// (.*)", line)
            field = re.match(r"\s*([\w:<>, ]+?) (\w+)(?: = ([^;]+))?;\s*(?://\s*(.*))?$", line)
            if comment:
                above.append(comment[1])
            elif field:
                current[field[2]] = (value(field[3] or ""), " ".join(above + [field[4] or ""]).strip())
                above = []
    return structs


def configuration():
    structs = config_structs()
    members = {"socket": "SocketConfig", "tcp": "TcpConfig", "access": "AccessConfig", "quotas": "QuotasConfig",
               "audit": "AuditConfig", "models": "ModelsConfig", "worker": "WorkerConfig", "slurm": "SlurmConfig",
               "metrics": "MetricsConfig", "web": "WebConfig", "limits": "LimitsConfig"}
    rows, section = [], ""
    for line in (ROOT / "server/config/fields.h").read_text().splitlines():
        begin, field = re.search(r'v\.Begin\("(\w+)"\)', line), re.search(r'v\.(\w+)\("(\w+)", c\.([\w.]+)(.*)\);', line)
        if begin:
            section = begin[1] + "."
        elif "v.End()" in line:
            section = ""
        elif field:
            key, path = field[2], field[3].split(".")
            struct = structs["Config"] if len(path) == 1 else structs[members[path[0]]]
            default, comment = struct[path[-1]]
            named = re.match(r"default: ([^;]+);?\s*(.*)", comment)
            if named and not default:
                default, comment = named[1], named[2]
            rows.append((f"`{section}{key}`", f"`{default}`" if default else "", comment))
    return (HEADER + "# Configuration\n\n`finetuned --config FILE` reads YAML; every key has a default, an unknown key is "
            "an error that names the nearest\nknown one. `finetuned --print-config` shows the values in force, "
            "`--check-config` checks a file and exits (78: bad). Durations are "
            "`90s`, `15m`, `1h30m`; bytes may have a unit: `20GiB`.\n\n" + table(("key", "default", "meaning"), rows))


# ---- job fields

def parse_proto(name):
    """Message -> [(field, type, comment)], and the comment above each message."""
    messages, above_message, current, above, oneof = {}, {}, None, [], False
    for line in (ROOT / f"proto/finetuned/v1/{name}.proto").read_text().splitlines():
        text = line.strip()
        comment = re.match(r"//\s?(.*)", text)
        start = re.match(r"message (\w+) \{", text)
        field = re.match(r"(?:(optional|repeated) )?(map<.*?>|[\w.]+) (\w+) = \d+;\s*(?://\s*(.*))?$", text)
        if comment:
            above.append(comment[1])
            continue
        if start:
            current = messages.setdefault(start[1], [])
            above_message[start[1]] = " ".join(above)
        elif re.match(r"oneof \w+ \{", text):
            oneof = True
            continue
        elif text == "}":
            if oneof:
                oneof = False
            else:
                current = None
        elif field and current is not None:
            kind = ("list of " if field[1] == "repeated" else "") + field[2]
            current.append((field[3], kind, " ".join(above + [field[4] or ""]).strip()))
        above = []
    return messages, above_message


TYPES = {"int32": "integer", "int64": "integer", "uint64": "integer", "double": "number", "bool": "true/false",
         "google.protobuf.Duration": "duration", "google.protobuf.Timestamp": "time"}


def friendly(kind):
    many = kind.startswith("list of ")
    base = kind.removeprefix("list of ")
    base = re.sub(r"map<(\w+), (\w+)>", lambda m: f"map of {TYPES.get(m[2], m[2])}", base)
    return ("list of " if many else "") + TYPES.get(base, base)


def fields_of(message, path, messages, out):
    """The table of a message, then those of the messages in it."""
    rows, inner = [], []
    for name, kind, comment in messages[message]:
        base = kind.removeprefix("list of ")
        if comment.startswith("output") or base == "google.rpc.Status":
            continue
        if base in messages:
            inner.append((name, kind, base))
            rows.append((f"`{name}`", "see below", comment))
        else:
            rows.append((f"`{name}`", friendly(kind), comment))
    out.append((path, message, rows))
    for name, kind, base in inner:
        fields_of(base, f"{path}.{name}" + ("[]" if kind.startswith("list of ") else ""), messages, out)


def job_fields():
    jobs, _ = parse_proto("jobs")
    spec, about = parse_proto("spec")
    keep = [f for f in jobs["Job"] if not f[2].startswith("output")]
    sections = []
    name = ("name", "string", "id, [a-z][a-z0-9-]{2,62}; empty: chosen by the daemon")
    job = [name] + [f for f in keep if f[0] not in ("name", "resolved_spec")]
    fields_of("Job", "job", {**spec, "Job": job}, sections)
    page = (HEADER + "# Job files\n\nA job file is YAML (or JSON) with the fields of `Job`; those of `spec` may also stand "
            "at the top. `deploy/examples/sft.yaml`\nis one. Unset fields get the default; `finetune get JOB` shows the "
            "resolved ones. A field this version cannot do yet is refused\nwhen it is set, with its name. Durations "
            "are `90s`, `15m`, `2h`; times RFC 3339.\n")
    for path, message, rows in sections:
        page += f"\n## {path}\n\n" + (about.get(message, "") + "\n\n" if about.get(message) else "")
        page += table(("field", "type", "meaning"), rows)
    return page


# ---- metrics

def families():
    """(name, type, help) in the order of the sources."""
    text = (ROOT / "server/metrics/families.cc").read_text()
    found = [(name, kind.lower(), "".join(re.findall(r'"([^"]*)"', help)))
             for kind, name, help in re.findall(r'\b(Gauge|Counter|Histogram)\(r, "(\w+)",\s*((?:"[^"]*"\s*)+)\)', text)]
    text = (ROOT / "server/metrics/storage_use.cc").read_text()
    name, help = re.search(r'family_ = \{"(finetuned_\w+)",\s*"([^"]+)"', text).groups()
    return found + [(name, "gauge", help)]


def users(name):
    """The alerts and panels that ask for a family."""
    asks = re.compile(rf"\b{name}(_bucket|_sum|_count)?\b")
    rules = (ROOT / "deploy/prometheus/alert_rules.yml").read_text()
    alerts = [f"`{alert}`" for alert, body in re.findall(r"- alert: (\w+)\n(.*?)(?=\n  - |\Z)", rules, re.S)
              if asks.search(body)]
    panels = [title for panels in make_dashboard.ROWS.values() for title, _, queries in panels
              if any(asks.search(expr) for expr, _ in queries)]
    return ", ".join(alerts + panels)


def metrics():
    rows = [(f"`{name}`", kind, help, users(name)) for name, kind, help in families()]
    return (HEADER + "# Metrics\n\nServed at `http://127.0.0.1:9464/metrics` (`metrics.address`). Units are in the names; "
            "`job_id` appears only on series of jobs that\nhave the device or had it in the last five minutes. A value "
            "with no source has no series. The last column names the alerts\n(`deploy/prometheus/alert_rules.yml`) and "
            "the panels (`deploy/grafana`) that use it; [operations](../operations.md) tells how to scrape.\n\n"
            + table(("family", "type", "meaning", "used by"), rows))


def main():
    pages = {"configuration.md": configuration(), "job_fields.md": job_fields(), "metrics.md": metrics()}
    stale = [name for name, text in pages.items()
             if not (PAGES / name).exists() or (PAGES / name).read_text() != text]
    if sys.argv[1:] == ["--check"]:
        if stale:
            print(f"docs/reference is out of date ({', '.join(stale)}): run docs/make_reference.py", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        (PAGES / name).write_text(pages[name])
    return 0


if __name__ == "__main__":
    sys.exit(main())
