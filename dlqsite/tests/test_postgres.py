"""PostgreSQL that is away or silent: intake goes on, the rest says so, and no thread waits for ever."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, close_old_connections, connection, connections
from django.test import Client
from pytest_django import Settings

from dlqsite import access
from dlqsite.access import known_keys
from dlqsite.health import report
from dlqsite.models import ApiKey
from dlqsite.postgres.line import Line, line
from dlqsite.tests import scenes
from dlqsite.tests.patience import eventually
from dlqsite.tests.people import a_key, staff, with_key
from dlqsite.tests.postgres import Postgres

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.redis,
    pytest.mark.mongo,
    pytest.mark.skipif("connection.vendor != 'postgresql'", reason="runs on PostgreSQL: make postgres"),
]


@pytest.fixture
def server(servers: Any) -> Iterator[Postgres]:
    found: Postgres = servers.postgres
    yield found
    found.stop()
    found.start()


@pytest.fixture(autouse=True)
def _nothing_known(redis_client: Any, mongo_db: Any, settings: Settings) -> Iterator[None]:
    settings.DATABASE_TIMEOUT = 0.5  # a silent server is given up after 1.5 s
    _forget()
    connection.close()
    yield
    line.at_most = None
    _forget()
    connection.close()
    line.__init__()  # type: ignore[misc]
    eventually(_answers)


def _forget() -> None:
    known_keys.clear()
    scenes.forget()
    report.gatekeeper.cache_clear()


def _answers() -> bool:
    try:
        return User.objects.count() >= 0
    except OperationalError:
        connection.close()
        return False


def submit(client: Client) -> Any:
    close_old_connections()  # as at the start of a request; Django's test client leaves it out
    return client.post("/api/messages", b'{"payload":1}', content_type="application/json")


def submit_batch(client: Client) -> Any:
    return client.post("/api/messages/batch", b'{"messages":[{"payload":1}]}', content_type="application/json")


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """The keys' clock is ahead by so long."""
    now = time.monotonic

    class Ahead:
        monotonic = staticmethod(lambda: now() + seconds)
        time = staticmethod(time.time)

    monkeypatch.setattr(access, "time", Ahead)


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, json.loads(answer.content)["code"]


@pytest.mark.parametrize("outage", ["stop", "hold"])
def test_a_key_verified_in_the_last_minutes_submits_while_the_database_is_away(
    server: Postgres, outage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, stranger = with_key("submit", "read"), Client(headers={"Authorization": f"Api-Key {a_key('submit')}"})
    assert submit(known).status_code == 202

    getattr(server, outage)()
    later(monkeypatch, 60)

    assert [submit(known).status_code, submit_batch(known).status_code] == [202, 202]
    assert known.get("/api/messages/none").status_code == 404
    assert code(submit(stranger)) == (503, "store_unavailable")
    later(monkeypatch, 601)
    assert code(submit(known)) == (503, "store_unavailable")


def test_a_key_revoked_before_the_database_returned_is_refused_when_it_has(
    server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = with_key("submit")
    submit(client)
    ApiKey.objects.update(revoked=True)
    server.stop()
    later(monkeypatch, 6)
    assert submit(client).status_code == 202

    server.start()

    assert eventually(lambda: submit(client).status_code == 401)
    server.stop()
    assert code(submit(client)) == (503, "store_unavailable")


@pytest.mark.parametrize("outage", ["stop", "hold"])
def test_everything_else_says_that_the_database_does_not_answer(server: Postgres, outage: str) -> None:
    person = staff("ada", "admin", is_superuser=True)

    getattr(server, outage)()

    for path in ("/api/dlq", "/api/messages/none", "/api/breakers", "/api/schema"):
        answer = person.get(path)
        assert code(answer) == (503, "store_unavailable"), path
        assert answer["Retry-After"] == "5"
    for path in ("/admin/", "/admin/auth/user/", "/admin/login/"):
        answer = person.get(path)
        assert answer.status_code == 503, path
        assert "The database does not answer" in answer.content.decode()
    login = Client().post("/admin/login/", {"username": "ada", "password": "wrong"})
    assert (login.status_code, login["Retry-After"]) == (503, "5")


@pytest.mark.parametrize("outage", ["stop", "hold"])
def test_health_names_the_database_and_readiness_follows_intake(server: Postgres, outage: str) -> None:
    scenes.indexed()
    known, person = with_key("submit", "read"), staff("ada", "admin")
    submit(known)
    getattr(server, outage)()

    assert known.get("/api/system/live").status_code == 200
    answer = known.get("/api/system/health")
    assert (answer.status_code, answer.json()["data"]["checks"]["database"]["status"]) == (503, "unhealthy")
    answer = person.get("/api/system/health")  # whose session cannot be read
    assert (answer.status_code, answer.json()) == (503, {"data": {"status": "unhealthy"}})
    assert known.get("/api/system/ready").status_code == 200
    known_keys.clear()
    assert known.get("/api/system/ready").status_code == 503


def test_a_silent_server_is_given_up_and_the_connection_with_it(server: Postgres) -> None:
    raw = connection.cursor().connection
    server.hold()

    with pytest.raises(OperationalError, match=r"did not answer within 1\.5 s"):
        User.objects.count()

    assert raw.closed
    close_old_connections()
    server.hold(signal.SIGCONT)
    assert eventually(_answers)


def test_not_all_threads_wait_for_a_silent_server(server: Postgres, settings: Settings) -> None:
    settings.DATABASE_TIMEOUT = 3600
    line.at_most = 1
    there, held, errors, counted = threading.Barrier(4), threading.Event(), [], []

    def asks() -> None:
        try:
            User.objects.count()
            there.wait(30)
            held.wait(30)
            counted.append(User.objects.count())
        except OperationalError as error:
            errors.append(str(error))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=asks) for _ in range(3)]
    for thread in threads:
        thread.start()
    there.wait(30)
    server.hold()
    held.set()

    assert eventually(lambda: len(errors) == 2)
    assert set(errors) == {"too many threads wait for the database"}
    server.hold(signal.SIGCONT)
    for thread in threads:
        thread.join(30)
    assert counted == [0]


def test_while_the_server_is_away_one_thread_at_a_time_tries_to_connect() -> None:
    own = Line()
    with pytest.raises(ZeroDivisionError), own.connecting():
        raise ZeroDivisionError
    with pytest.raises(psycopg.OperationalError, match="a moment ago"), own.connecting():
        pass

    own._next_try = 0.0
    with own.connecting(), pytest.raises(psycopg.OperationalError, match="a moment ago"), own.connecting():
        pass
    with own.connecting():
        pass


def test_statements_have_the_server_s_limit_and_migrations_none() -> None:
    def limit() -> str:
        with connection.cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            found: str = cursor.fetchone()[0]
            return found

    from django.core.management import call_command

    assert limit() == "1min"
    call_command("migrate", verbosity=0, interactive=False)
    assert limit() == "0"
    assert connection.connection.patience_s is None
