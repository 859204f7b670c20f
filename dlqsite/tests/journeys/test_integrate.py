"""An application of others, as docs/integrate.md describes it: two settings, and no change of a file here.

Its files are taken from the page, so the page works as it stands.
"""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from dlqsite.tests.journeys.rig import ROOT, Rig
from dlqsite.tests.patience import eventually
from dlqsite.tests.receiver import Receiver

pytestmark = [pytest.mark.journey, pytest.mark.redis, pytest.mark.mongo, pytest.mark.timeout(300)]

#: Blocks of code that begin with the name of their file.
_FILE = re.compile(r"^```\w+\n# ([\w/]+\.\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)

#: What the page does not show: a table of its own, with a migration, and a handler that writes to it.
MODELS = """
from django.db import models


class Note(models.Model):
    text = models.CharField(max_length=50)
"""
MIGRATION = """
from django.db import migrations, models


class Migration(migrations.Migration):
    operations = [
        migrations.CreateModel(
            "Note", [("id", models.BigAutoField(primary_key=True)), ("text", models.CharField(max_length=50))]
        )
    ]
"""
NOTES = """

@handler("shop.note")
def note(message):
    from shop.errors import SoldOut
    from shop.models import Note

    if message.payload is None:
        raise SoldOut
    Note.objects.create(text=message.payload)
    return Note.objects.count()
"""


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder ``apps`` of the page, with the package ``shop``."""
    folder = tmp_path_factory.mktemp("apps")
    for name, text in _FILE.findall((ROOT / "docs/integrate.md").read_text(encoding="utf-8")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(text.replace("/srv/dlq", str(ROOT)))
    for package in ("shop", "shop/tests", "shop/migrations"):
        (folder / package).mkdir(exist_ok=True)
        (folder / package / "__init__.py").touch()
    (folder / "shop/models.py").write_text(MODELS)
    (folder / "shop/migrations/0001_initial.py").write_text(MIGRATION)
    (folder / "shop/errors.py").write_text("class SoldOut(Exception):\n    pass\n")
    with (folder / "shop/handlers.py").open("a") as file:
        file.write(NOTES)
    return folder


@pytest.fixture(scope="module")
def orders() -> Iterator[Receiver]:
    """The service that the handler of the page calls."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def stack(apps: Path, orders: Receiver, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    environment = {
        "EXTRA_APPS": "shop",
        "POLICY_DIR": str(apps / "policies"),
        "PYTHONPATH": str(apps),
        "RELOAD": "true",
        "SHOP_ORDERS_URL": orders.url,
        "LEGACY_REDIS_URL": redis_url,
        "NO_PROXY": "127.0.0.1",
        "WORKER_SHUTDOWN_GRACE": "3",
    }
    with Rig(tmp_path_factory.mktemp("integrate"), **environment) as running:
        yield running


def client_of(apps: Path, url: str, key: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[float]]:
    """The function ``submit`` of the page's client, and the list of its waits, which take no time."""
    monkeypatch.setenv("DLQ_URL", url)
    monkeypatch.setenv("DLQ_API_KEY", key)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    names: dict[str, Any] = {}
    exec(compile((apps / "client.py").read_text(), "client.py", "exec"), names)  # noqa: S102 - our own page
    waits: list[float] = []
    names["time"] = SimpleNamespace(sleep=waits.append)
    return names["submit"], waits


def test_its_own_tests_need_neither_redis_nor_mongodb(apps: Path) -> None:
    unset = ("REDIS_URL", "MONGODB_URL", "DATABASE_URL", "DJANGO_SETTINGS_MODULE", "PYTEST_ADDOPTS", "DATA_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in unset}

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=apps,
        env={**environment, "REDIS_URL": "redis://127.0.0.1:1/0", "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_a_message_of_its_client_reaches_its_handler(
    stack: Rig, apps: Path, orders: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, _ = client_of(apps, stack.connection["url"], stack.connection["apiKey"], monkeypatch)

    assert submit("shop.order", {"order": 1}, "shop-1")["type"] == "shop.order"
    assert submit("shop.order", {"order": 1}, "shop-1")["duplicate"] is True

    assert stack.until("shop-1", "done")["result"] == {"status": 200}
    assert [one.headers["idempotency-key"] for one in orders.seen if b'"order": 1' in one.body] == ["shop-1"]


def test_its_failures_follow_its_policies(stack: Rig, orders: Receiver) -> None:
    permanent = stack.submit({"customer": 7}, type="shop.order")
    assert stack.until(permanent, "dead")["attempts"][0]["errorType"] == "VALIDATION_ERROR"

    mapped = stack.until(stack.submit(None, type="shop.note"), "dead")
    assert [one["errorType"] for one in mapped["attempts"]] == ["SOLD_OUT"]

    orders.mode = "error"
    try:
        transient = stack.until(stack.submit({"order": 2}, type="shop.order"), "dead")
    finally:
        orders.mode = "ok"
    assert [one["errorType"] for one in transient["attempts"]] == ["SERVICE_UNAVAILABLE"] * 3
    assert 160 <= transient["attempts"][0]["retryDelayMs"] <= 240
    assert stack.letter(transient["messageId"])["errorReason"]
    breaker = stack.get("/api/breakers/shop-orders").data
    assert (breaker["thresholds"]["minimumRequests"], breaker["whenOpen"]) == (5, "hold")


def test_its_migrations_are_applied(stack: Rig) -> None:
    noted = stack.until(stack.submit("hello", type="shop.note"), "done")

    assert noted["result"] == 1


def test_doctor_names_its_app_and_its_policies(stack: Rig, apps: Path) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "doctor"],
        cwd=ROOT, env=stack.environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip

    assert re.search(r"ok +extra apps: shop", done.stdout), done.stdout + done.stderr
    assert f"{apps}/policies/breaker.toml, {apps}/policies/retry.toml; the others as shipped" in done.stdout


def test_a_bridge_enqueues_each_job_of_rq_once(stack: Rig, redis_client: Any) -> None:
    payload = {"task": "billing.tasks.pay", "kwargs": {"invoice": 7}}
    done = stack.until(stack.submit(payload, type="legacy.task", messageId="bridge-1"), "done")

    assert done["result"] == {"job": "bridge-1"}
    assert redis_client.lrange("rq:queue:legacy", 0, -1) == [b"bridge-1"]

    other = stack.submit({"task": "os.system", "kwargs": {}}, type="legacy.task")
    assert stack.until(other, "dead")["attempts"][0]["errorType"] == "VALIDATION_ERROR"


class Flaky(BaseHTTPRequestHandler):
    """Passes requests on to the system, after it has failed in each of the ways in ``faults``."""

    target: str
    faults: list[str]

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fault = self.faults.pop(0) if self.faults else ""
        if fault in ("503", "429"):
            self._answer(int(fault), b"{}", {"Retry-After": "3"})
            return
        connection = http.client.HTTPConnection(self.target, timeout=30)
        try:
            connection.request("POST", self.path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if fault == "lost":
            self.connection.shutdown(2)  # it was accepted, and the client does not know
        else:
            self._answer(answer.status, content, {"Content-Type": "application/json"})

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def flaky(target: str, *faults: str) -> Iterator[str]:
    handler = type("Bound", (Flaky,), {"target": target, "faults": list(faults)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_its_client_repeats_what_was_refused_or_lost_with_the_same_id(
    stack: Rig, apps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with flaky(urlsplit(stack.connection["url"]).netloc, "503", "429", "lost") as url:
        submit, waits = client_of(apps, url, stack.connection["apiKey"], monkeypatch)
        accepted = submit("shop.order", {"order": 3})

    assert accepted["duplicate"] is True
    assert waits == [3, 3, 4]
    assert stack.until(accepted["messageId"], "done")["status"] == "done"


def test_new_code_is_loaded_without_a_restart_by_hand(stack: Rig, apps: Path) -> None:
    handlers = apps / "shop/handlers.py"
    good = handlers.read_text()
    before = stack.pid("worker")
    log = stack.folder / "up.log"

    handlers.write_text(good + "\n\ndef broken(:\n")
    eventually(lambda: "not reloaded, the old code runs on" in log.read_text(), seconds=60)
    assert stack.until(stack.submit({"order": 4}, type="shop.order"), "done")
    assert stack.pid("worker") == before

    handlers.write_text(good + '\n\n@handler("shop.hello")\ndef hello(message):\n    return "hello"\n')
    eventually(lambda: stack.is_replaced("worker", before), seconds=60)

    def accepted() -> str | None:
        reply = stack.post("/api/messages", {"payload": 1, "type": "shop.hello"})
        return str(reply.data["messageId"]) if reply.status == 202 else None

    message_id = eventually(lambda: _patient(accepted), seconds=60)
    assert message_id
    assert stack.until(message_id, "done")["result"] == "hello"


def _patient(ask: Any) -> Any:
    try:
        return ask()
    except (OSError, http.client.HTTPException):
        return None  # a kept-alive connection ended with the old process
