"""What can be no ledger is refused at start: in one line, with the fix, by ``prepare``, each role and ``doctor``."""

from __future__ import annotations

import importlib
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from breaker_app.tests.servers import OwnServer, Pair
from dlqsite.health import store_checks
from dlqsite.tests import scenes
from dlqsite.tests.patience import eventually
from management import doctor, embedded, preparation
from management.doctor import Status
from management.embedded import valkey_binary
from management.errors import StackError
from management.supervisor import bound_to_parent
from messages_app.work import startup
from messages_app.work.startup import refusal

pytestmark = pytest.mark.redis

REFUSED = {
    "replica": "REDIS_URL leads to a replica, which takes no writes. Point REDIS_URL to the primary",
    "cluster": "REDIS_URL leads to a node of a Redis Cluster, which is not supported. Set REDIS_URL to one primary",
    "sentinel": "REDIS_URL leads to a Sentinel, which keeps no messages. Set REDIS_URL to redis+sentinel://",
    "scheme": "REDIS_URL begins with redis+srv://; use redis://, rediss:// or unix://",
    "nothing like a URL": "REDIS_URL has no scheme; use redis://",
    "port": "REDIS_URL cannot be read",
}


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.remove()


@pytest.fixture(scope="module")
def urls(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    cluster = OwnServer("--cluster-enabled", "yes", "--port", "0", "--tls-port", "0", "--cluster-port", "1")
    folder = tmp_path_factory.mktemp("s")
    binary = valkey_binary()
    assert binary is not None
    (folder / "s.conf").write_text(f"port 0\nunixsocket {folder}/s.sock\ndir {folder}\n")
    watcher = subprocess.Popen(
        bound_to_parent([binary.path, str(folder / "s.conf"), "--sentinel"], signal.SIGKILL),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    cluster.start()
    eventually((folder / "s.sock").exists)
    yield {
        "replica": pair.servers[1].url,
        "cluster": cluster.url,
        "sentinel": f"unix://{folder}/s.sock",
        "scheme": "redis+srv://:secret@127.0.0.1:26379/dlq/0",
        "nothing like a URL": "user:secret@127.0.0.1",
        "port": "redis://:secret@127.0.0.1:many/0",
    }
    cluster.remove()
    watcher.kill()
    watcher.wait()


@pytest.fixture
def use(settings: Any) -> Iterator[Callable[..., None]]:
    def use(url: str, **more: Any) -> None:
        settings.REDIS_URL = url
        for name, value in more.items():
            setattr(settings, name, value)
        scenes.reconnect()

    address = settings.REDIS_URL
    yield use
    settings.REDIS_URL = address
    scenes.reconnect()


@pytest.mark.parametrize("kind", REFUSED)
def test_what_can_be_no_ledger_is_refused_with_the_fix(
    urls: dict[str, str], use: Callable[..., None], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(urls[kind])
    monkeypatch.setattr(startup, "PATIENCE_S", 0.0)
    said = refusal()
    assert said.startswith(REFUSED[kind])
    assert "secret" not in said
    assert "\n" not in said
    for command in ("prepare", "run_worker", "run_dlq_worker", "run_cron", "rqworker"):
        with pytest.raises(CommandError, match="REDIS_URL"):
            call_command(command)
    found = next(iter(doctor.diagnose([doctor.Check("redis", doctor.check_redis)])))
    assert (found.status, found.detail in said) == (Status.FAIL, True)


def test_up_refuses_an_address_that_is_none(urls: dict[str, str]) -> None:
    with pytest.raises(StackError, match=r"redis\+srv://; use redis://"):
        embedded.require_redis(urls["scheme"])


def test_the_web_server_is_not_loaded(urls: dict[str, str], use: Callable[..., None]) -> None:
    module = importlib.import_module("dlqsite.wsgi")
    use(urls["cluster"])
    with pytest.raises(SystemExit, match=REFUSED["cluster"]):
        importlib.reload(module)


def test_a_replica_that_is_promoted_meanwhile_is_used(
    pair: Pair, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(pair.url)
    pair.proxy.upstream = pair.servers[1].socket
    looks: list[float] = []

    def look_again(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            pair.switch()

    monkeypatch.setattr(startup, "pause", look_again)
    assert refusal() == ""
    assert len(looks) == 3


def test_a_server_that_is_away_is_waited_for(use: Callable[..., None]) -> None:
    use("redis://127.0.0.1:1/0")
    assert refusal() == ""
    with pytest.raises(CommandError, match="Start Redis, or set REDIS_URL"):
        call_command("prepare")


def test_a_user_without_administrators_rights_is_enough_and_what_was_not_checked_is_said(
    redis_client: Any, redis_url: str, use: Callable[..., None]
) -> None:
    rules = ("~dlq:*", "~rq:*", "~cb:*", "&rq:*", "+@all", "-@admin", "-@dangerous")
    redis_client.execute_command("ACL", "SETUSER", "modest", "on", ">secret", *rules)
    try:
        use(redis_url.replace("unix://", "unix://modest:secret@"))
        assert "may not run INFO" in preparation.require_safe_redis()
        found = {one.name: one for one in doctor.check_redis()}
        assert found["redis"].status is Status.WARN
        assert "append-only file, eviction" in found["redis"].detail
        assert found["redis writes"].status is Status.OK
        seen = store_checks.check_redis()
        assert (seen.status, "may not run INFO" in seen.detail) == ("healthy", True)
    finally:
        redis_client.execute_command("ACL", "DELUSER", "modest")


def test_replica_without_a_replica_is_named_by_doctor_and_health(
    redis_client: Any, redis_url: str, use: Callable[..., None]
) -> None:
    use(redis_url, ACCEPT_DURABILITY="replica")
    found = next(iter(doctor.check_redis()))
    assert (found.status, found.detail.partition(":")[0]) == (
        Status.FAIL,
        "ACCEPT_DURABILITY is replica and Redis has no connected replica",
    )
    seen = store_checks.check_redis()
    assert (seen.status, found.detail in seen.detail) == ("unhealthy", True)
    assert "ACCEPT_DURABILITY" in store_checks.check_intake().detail
