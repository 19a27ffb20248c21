"""The Kubernetes files are what Kubernetes takes: the schemas of its oldest version with a stable podFailurePolicy and of
the newest accept them, plain and with Kueue's lines in force; a wrong field is refused; what no schema says (exit codes,
the number of ranks, volumes) agrees within each file.

Usage: kubernetes_test.py. Exit code 77: skipped, kubernetes-validate is not installed.
"""

import copy
import pathlib
import re
import sys

try:
    import kubernetes_validate
    import yaml
except ImportError as missing:
    print(f"skipped: {missing} (deploy/install_deps.sh --client)")
    sys.exit(77)

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "deploy/kubernetes"
VERSIONS = ["1.31", "1.37"]


def with_kueue(text):
    """The file as its comments tell a user of Kueue to change it."""
    for line in ("# kueue.x-k8s.io/queue-name:", "# suspend: true"):
        assert line in text, f"no line '{line}'"
        text = text.replace(line, line[2:])
    return text


def check(document):
    for version in VERSIONS:
        kubernetes_validate.validate(document, version, strict=True)


def refuses(job, where, change):
    """`change` spoils a copy of `job`; the schema's complaint must name `where`."""
    spoiled = copy.deepcopy(job)
    change(spoiled)
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(spoiled, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            said = f"{'.'.join(map(str, error.path))} {error.message}"
            assert where in said, f"{where} is wrong, but what was refused is: {said}"
        else:
            raise AssertionError(f"a wrong {where} passed the schema of {version}")


def check_refusals(job):
    pod = "template.spec.containers.0"
    container = lambda j: j["spec"]["template"]["spec"]["containers"][0]  # noqa: E731
    refuses(job, "backofLimit", lambda j: j["spec"].update(backofLimit=6))
    refuses(job, "backoffLimit", lambda j: j["spec"].update(backoffLimit="six"))
    refuses(job, "suspend", lambda j: j["spec"].update(suspend="later"))
    refuses(job, "action", lambda j: j["spec"]["podFailurePolicy"]["rules"][0].pop("action"))
    refuses(job, f"{pod}.command", lambda j: container(j).update(command="finetune-worker"))
    refuses(job, "gpus", lambda j: container(j)["resources"].update(gpus=1))
    refuses(job, "metadata.labels", lambda j: j["metadata"]["labels"].update({"kueue.x-k8s.io/queue-name": 7}))


def check_agreement(job):
    """The worker's contract (docs/scaling.md) and names that point at something."""
    rules = job["spec"]["podFailurePolicy"]["rules"]
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    by_exit_code = {code: rule["action"] for rule in rules for code in rule.get("onExitCodes", {}).get("values", [])}
    assert by_exit_code == {65: "FailJob", 78: "FailJob", 75: "Ignore"}, by_exit_code
    assert {r["onExitCodes"]["containerName"] for r in rules if "onExitCodes" in r} == {container["name"]}
    assert pod["restartPolicy"] == "Never", "podFailurePolicy needs it"
    mounted, volumes = ({v["name"] for v in x} for x in (container["volumeMounts"], pod["volumes"]))
    assert mounted == volumes, f"mounts {mounted}, volumes {volumes}"
    queue = job["metadata"]["labels"].get("kueue.x-k8s.io/queue-name", "unset")
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?", queue), f"{queue} is no label's value"
    environment = {e["name"]: e.get("value") for e in container.get("env", [])}
    if job["spec"].get("completionMode") == "Indexed":
        ranks = job["spec"]["completions"]
        assert job["spec"]["parallelism"] == ranks and environment["WORLD_SIZE"] == str(ranks)
        first, domain = environment["MASTER_ADDR"].split(".")
        assert first == f"{job['metadata']['name']}-0" and domain == pod["subdomain"]


def main():
    files = sorted(FOLDER.glob("*.yaml"))
    assert [f.name for f in files] == ["data_parallel.yaml", "job.yaml"]
    for file in files:
        for text in (file.read_text(), with_kueue(file.read_text())):
            documents = list(yaml.safe_load_all(text))
            services = [d for d in documents if d["kind"] == "Service"]
            (job,) = [d for d in documents if d["kind"] == "Job"]
            assert len(documents) == len(services) + 1
            for document in documents:
                check(document)
            check_agreement(job)
            for service in services:
                assert service["metadata"]["name"] == job["spec"]["template"]["spec"]["subdomain"]
                assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
        assert job["spec"]["suspend"] is True and "kueue.x-k8s.io/queue-name" in job["metadata"]["labels"]
        check_refusals(job)
        print(f"{file.name}: accepted by Kubernetes {' and '.join(VERSIONS)}, also with Kueue's lines; wrong fields refused")
    return 0


if __name__ == "__main__":
    sys.exit(main())
