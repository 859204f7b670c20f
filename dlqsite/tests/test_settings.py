"""Settings: refused when they cannot work, clean when they are as documented, and none that nobody has heard of."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.test import Client
from pytest_django import Settings

from breaker_app.policy import BreakerPolicy
from dlq_app.domain.masking import MaskingPolicy
from dlq_app.domain.objectives import LettersObjective
from dlq_app.domain.replay_policy import ReplayPolicy
from dlqsite import checks
from dlqsite.sign_in.policy import SignInPolicy
from messages_app.domain.retry_policy import RetryPolicy
from messages_app.request_ids import request_id_of
from notify_app.domain import policy as notify_policy

ROOT = Path(django_settings.BASE_DIR)


def manage(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name not in ("SECRET_KEY", "HTTPS", "DEBUG")}
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_deployment_check_is_clean_with_the_documented_environment() -> None:
    done = manage("check", "--deploy", "--fail-level", "WARNING", SECRET_KEY="".join(f"k{n}" for n in range(40)))

    assert done.returncode == 0, done.stderr
    assert "no issues" in done.stdout


def test_without_a_secret_key_nothing_runs_and_the_fix_is_told(tmp_path: Path) -> None:
    done = manage("check", DATA_DIR=str(tmp_path))

    assert done.returncode == 1
    assert "dlqsite.E001" in done.stderr
    assert "secrets.token_urlsafe" in done.stderr


def test_the_key_in_the_data_directory_is_used(tmp_path: Path) -> None:
    (tmp_path / "secret_key").write_text("".join(f"k{n}" for n in range(40)) + "\n")

    assert manage("check", DATA_DIR=str(tmp_path)).returncode == 0


@pytest.mark.parametrize("key", ["", "short", "insecure-key-for-development-only-never-serve-with-it"])
def test_a_server_refuses_to_start_with_a_weak_key(settings: Settings, key: str) -> None:
    settings.SECRET_KEY = key
    settings.DEBUG = False

    with pytest.raises(ImproperlyConfigured, match="Set SECRET_KEY"):
        checks.require_secret_key()


@pytest.mark.parametrize(
    ("name", "value", "check", "code"),
    [
        ("TRUSTED_PROXIES", ["10.0.0.0/8", "proxy.example"], checks.check_trusted_proxies, "dlqsite.E002"),
        ("READ_RATE_LIMIT_PER_MINUTE", -1, checks.check_rate_limits, "dlqsite.E003"),
        ("LOG_FORMAT", "xml", checks.check_log_format, "dlqsite.E004"),
        ("ENVIRONMENT", "prod", checks.check_environment, "dlqsite.E006"),
        ("DLQ_APPROVAL_SIZE", -1, checks.check_approval_size, "dlqsite.E005"),
    ],
)
def test_what_cannot_work_is_an_error_with_a_hint(
    settings: Settings, name: str, value: Any, check: Any, code: str
) -> None:
    assert check(None) == []
    setattr(settings, name, value)

    (found,) = check(None)

    assert found.id == code
    assert found.hint


def variables(path: str, pattern: str) -> set[str]:
    return set(re.findall(pattern, (ROOT / path).read_text(encoding="utf-8")))


def read_somewhere() -> set[str]:
    """Every variable that settings, the web server, a command or docker compose asks the environment for."""
    commands = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "management").rglob("*.py")
        if not {"tests", "scripts"} & set(path.parts)
    ]
    asked = r'environ(?:ment)?(?:\.get\(|\[|, )\s*"([A-Z_]+)"'
    found = variables("dlqsite/settings.py", r'env\.\w+\(\s*"([A-Z_]+)"')
    found |= variables("docker-compose.yml", r"\$\{([A-Z_]+)")
    for path in ["gunicorn.conf.py", *commands]:
        found |= variables(path, asked)
    return found - {"XDG_RUNTIME_DIR", "GLIBC_TUNABLES"}  # of the operating system and of the C library


def test_every_variable_is_in_the_example_and_in_the_docs() -> None:
    read = read_somewhere()
    example = variables(".env.example", r"(?m)^#([A-Z_]+)=")
    docs = variables("docs/settings.md", r"`([A-Z_]{4,})`")

    assert {"DATA_DIR", "SECRET_KEY", "WEB_THREADS", "WORKERS", "DLQ_API_KEY", "REDIS_PASSWORD"} <= read
    assert example == read
    assert example - docs == set()


def test_every_variable_of_the_example_has_a_line_of_its_own_above_it() -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()

    for above, line in pairwise(lines):
        if re.match(r"#[A-Z_]+=", line):
            assert re.match(r"# .+\.$", above), line


def test_every_key_of_a_policy_is_in_the_docs() -> None:
    docs = variables("docs/settings.md", r"`([a-z_]+)`")
    policies = (RetryPolicy, BreakerPolicy, ReplayPolicy, MaskingPolicy, LettersObjective, SignInPolicy)
    assert {name for kind in policies for name in keys(kind)} <= docs
    assert {key for table in notify_policy.KEYS.values() for key in table} <= docs

    files = {path.name for path in (ROOT / "dlqsite" / "policies").glob("*.toml")}
    assert files <= variables("docs/settings.md", r"`([a-z_]+\.toml)`")


def keys(policy: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(policy)} - {"strategies"}


@pytest.mark.django_db
def test_pages_are_sent_with_a_strict_policy() -> None:
    answer = Client().get("/admin/login/")

    policy = dict(part.strip().split(" ", 1) for part in answer["Content-Security-Policy"].split(";") if part.strip())
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["X-Frame-Options"] == "DENY"
    assert answer["Referrer-Policy"] == "same-origin"
    assert "unsafe" not in answer["Content-Security-Policy"]


@pytest.mark.django_db
def test_ten_wrong_passwords_close_the_door_for_that_name_and_address_only() -> None:
    wrong = {"username": "olga", "password": "wrong"}
    statuses = [Client().post("/admin/login/", wrong).status_code for _ in range(11)]

    assert statuses[:9] == [200] * 9
    assert statuses[10] == 429
    assert Client().post("/admin/login/", wrong, REMOTE_ADDR="192.0.2.7").status_code == 200


@pytest.mark.parametrize("given", ["", "a\nb", "a b", "ä", "x" * 65, "<script>", "a\n"])
def test_a_request_id_that_could_forge_a_log_line_is_replaced(given: str) -> None:
    assert re.fullmatch("[0-9a-f]{32}", request_id_of(given))


@pytest.mark.parametrize(
    "given", ["ghp_" + "a1" * 18, "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", "sk_live_" + "a1" * 12]
)
def test_a_token_is_no_request_id(given: str) -> None:
    assert request_id_of("order-4711.retry_2") == "order-4711.retry_2"
    assert re.fullmatch("[0-9a-f]{32}", request_id_of(given))
