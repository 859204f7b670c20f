"""Which modules the roles without pages import: each process of a role pays for them in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from processes import monitor

#: REST, the console and what only they need: a third of the memory of a worker.
ONLY_FOR_WEB = (
    "rest_framework.serializers", "rest_framework.views", "drf_spectacular.plumbing", "jinja2", "requests", "markdown",
    "psycopg", "django.test", "apprise", "dlqsite.access", "dlqsite.admin.", "dlqsite.rq_pages", "dlqsite.urls",
    "dlq_app.admin", "dlq_app.rest", "messages_app.admin", "messages_app.rest", "breaker_app.admin", "notify_app.admin",
)  # fmt: skip
#: For second factors, PyOpenSSL, metrics of libraries, and the notifier.
OPTIONAL = (
    "cryptography.fernet", "cryptography.hazmat", "cryptography.x509", "dlqsite.sign_in.second_factor",
    "opentelemetry.sdk", "psutil", "redis.asyncio.client", "sqlparse.engine", "notify_app.senders",
)  # fmt: skip
#: What the first messages, dead letters and replays of a process import.
USED = {
    "run_worker": ("messages_app.services", "dlq_app.services.recording"),
    "run_dlq_worker": ("dlq_app.services.batch_executor", "dlq_app.services.replaying"),
}
_LOAD = """
import importlib, json, sys
import django
from django.conf import settings
settings.INSTALLED_APPS  # as manage.py does first
django.setup()
from django.core.management import get_commands, load_command_class
command, *used = sys.argv[1:]
load_command_class(get_commands()[command], command)
for name in used:
    importlib.import_module(name)
print(json.dumps(sorted(sys.modules)))
"""


@pytest.mark.parametrize("command", USED)
def test_a_role_without_pages_imports_neither_rest_nor_the_console(command: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _LOAD, command, *USED[command]],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "dlqsite.settings", "DATABASE_URL": "sqlite:///:memory:"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert ran.returncode == 0, ran.stderr
    assert [name for name in json.loads(ran.stdout) if name.startswith((*ONLY_FOR_WEB, *OPTIONAL))] == []


def test_the_monitor_of_a_process_imports_no_large_module() -> None:
    script = "import sys; sys.path.insert(0, sys.argv[1]); import monitor; print(*sys.modules)"
    folder = str(Path(monitor.__file__).parent)
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script, folder], capture_output=True, text=True, check=True
    )  # fmt: skip

    imported = set(ran.stdout.split())
    assert "monitor" in imported
    assert (
        imported & {"collections", "contextlib", "datetime", "enum", "functools", "json", "re", "signal", "typing"}
        == set()
    )
