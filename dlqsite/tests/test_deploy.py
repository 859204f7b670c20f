"""What is deployed: every role everywhere, no unknown variable or command, enough time to stop."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings
from django.core.management import get_commands

from dlqsite.tests.test_settings import manage
from dlqsite.tests.test_settings import variables as found_in

ROOT = Path(settings.BASE_DIR)
KUBERNETES = ROOT / "deploy/kubernetes"
UNITS = sorted((ROOT / "deploy/systemd").glob("*.service"))
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
#: Services that run the image.
ROLES = {name: one for name, one in COMPOSE["services"].items() if "DLQ_IMAGE" in one["image"]}
#: Seconds that a message worker needs after its grace period while no store responds.
BEYOND_GRACE = 6
#: Variables of Kubernetes, Python and pip; arguments of the build.
OTHERS = re.compile(r"POD_IP|PATH|PYTHON[A-Z]+|PIP_[A-Z_]+|(BUILD_)?BASE|VERSION|REVISION")
#: Made of the alert rules: long, and without pods.
RULE = "prometheus-rule.yaml"


@cache
def manifests() -> list[dict[str, Any]]:
    """Every object of deploy/kubernetes as it is written, before kustomize combines them."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(KUBERNETES.rglob("*.yaml")) if path.name != RULE]
    items = [item for text in texts for item in yaml.load_all(text, yaml.CSafeLoader)]
    return [
        one for one in items if isinstance(one, dict) and one.get("kind") not in (None, "Kustomization", "Component")
    ]


def containers(item: Any) -> Iterator[dict[str, Any]]:
    if isinstance(item, dict):
        for name, value in item.items():
            if name in ("containers", "initContainers"):
                yield from value
            else:
                yield from containers(value)
    elif isinstance(item, list):
        for one in item:
            yield from containers(one)


def of_the_image() -> list[dict[str, Any]]:
    return [one for item in manifests() for one in containers(item) if one["name"] in ("dlq", "wait-for-prepare")]


def commands(*texts: str) -> set[str]:
    """Commands of manage.py in command lines."""
    return {name for text in texts for name in re.findall(r"manage\.py[\s,]+([a-z_]+)", text)}


def deployed() -> dict[str, set[str]]:
    """The commands that each way of deployment runs, with ``gunicorn`` for the web role."""
    lines = {
        "compose": [" ".join(one.get("command", ["gunicorn"])) for one in ROLES.values()],
        "systemd": [unit.read_text(encoding="utf-8") for unit in UNITS],
        "kubernetes": [" ".join(one.get("command", [])) for one in of_the_image()],
    }
    return {
        way: commands(*texts) | ({"gunicorn"} if any("gunicorn" in text for text in texts) else set())
        for way, texts in lines.items()
    }


def test_every_role_is_in_compose_in_systemd_and_in_kubernetes() -> None:
    folder = ROOT / "management/management/commands"
    roles = {path.stem for path in folder.glob("run_*.py")} | {"gunicorn"}

    assert {"run_worker", "run_dlq_worker", "run_cron"} < roles
    assert {(way, role) for way, found in deployed().items() for role in roles - found} == set()


def test_every_deployed_command_exists() -> None:
    assert set.union(*deployed().values()) - {"gunicorn"} - set(get_commands()) == set()


def test_every_variable_that_a_deployment_sets_is_in_the_example() -> None:
    example = found_in(".env.example", r"(?m)^#([A-Z_]+)=")
    set_by = {
        "compose": {name for one in ROLES.values() for name in one["environment"]},
        "systemd": found_in("deploy/systemd/dlq.env.example", r"(?m)^([A-Z_]+)="),
        "image": found_in("Dockerfile", r"(?m)\b([A-Z_]+)=[^\s\"$]"),
        "kubernetes": {one["name"] for container in of_the_image() for one in container.get("env", [])},
    }
    for path in KUBERNETES.rglob("settings.env"):
        set_by[str(path.parent.relative_to(KUBERNETES))] = found_in(str(path.relative_to(ROOT)), r"(?m)^([A-Z_]+)=")

    unknown = {(way, name) for way, names in set_by.items() for name in names - example if not OTHERS.fullmatch(name)}
    assert unknown == set()


@pytest.mark.parametrize("overlay", ["production"])
def test_the_settings_of_an_overlay_pass_the_deployment_check(overlay: str) -> None:
    values = dict(
        line.split("=", 1)
        for part in ("base", f"overlays/{overlay}")
        for line in (KUBERNETES / part / "settings.env").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    )

    done = manage(
        "check", "--deploy", "--fail-level", "WARNING", SECRET_KEY="".join(f"k{n}" for n in range(40)), **values
    )

    assert done.returncode == 0, done.stderr


def test_every_role_has_time_to_stop() -> None:
    needed = settings.WORKER_SHUTDOWN_GRACE + BEYOND_GRACE
    compose = {
        name: int(one["stop_grace_period"].removesuffix("s"))
        for name, one in ROLES.items()
        if "run_" in " ".join(one.get("command", []))
    }
    units = {
        unit.name: int(re.findall(r"(?m)^TimeoutStopSec=(\d+)$", text)[0])
        for unit in UNITS
        if "manage.py run_" in (text := unit.read_text(encoding="utf-8"))
    }

    assert min(len(compose), len(units)) >= 3
    assert [name for name, seconds in {**compose, **units}.items() if seconds <= needed] == []


def test_the_image_contains_every_package_and_nothing_else() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = set(project["tool"]["importlinter"]["root_packages"])
    allowed = found_in(".dockerignore", r"(?m)^!(\S+)$")

    assert packages <= allowed
    assert {name for name in allowed if (ROOT / name / "__init__.py").exists()} == packages
    assert {name for name in allowed if not (ROOT / name).exists()} == set()


def test_no_file_for_deployment_contains_a_secret() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / "deploy").rglob("*") if path.is_file()}

    assert [item["metadata"]["name"] for item in manifests() if item["kind"] == "Secret"] == []
    assert [path.name for path, text in texts.items() if re.search(r"://\w+:(?!password@)[\w-]{6,}@", text)] == []


def test_the_page_on_kubernetes_lists_every_policy_file() -> None:
    files = {path.name for path in (ROOT / "dlqsite/policies").glob("*.toml")}

    assert found_in("docs/kubernetes.md", r"- policies/(\w+\.toml)") == files
