"""What an attempt leaves in its thread never reaches the next: database connections, transactions, settings."""

from __future__ import annotations

import asyncio
import contextvars
import decimal
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group, User
from django.db import DatabaseError, connection, connections, transaction
from django.utils import timezone, translation

from messages_app.attempt import databases
from messages_app.domain.records import Completed, Failed, Outcome
from messages_app.envelope import Message
from messages_app.tests.handling import a_claimed, handling
from messages_app.work.runner import Attempt, Runner

Run = Callable[[Callable[[Message], Any]], Outcome | None]


@pytest.fixture
def run() -> Iterator[Run]:
    """Runs attempts one after the other on one thread, as a worker does."""

    def attempt(function: Callable[[Message], Any]) -> Outcome | None:
        with handling(function) as type_:
            return Runner("w-1").run(Attempt(a_claimed(type=type_), time.monotonic()))

    with ThreadPoolExecutor(1) as thread:
        yield lambda function: thread.submit(attempt, function).result(10)
        thread.submit(connections.close_all).result(10)


def result_of(outcome: Outcome | None) -> Any:
    assert isinstance(outcome, Completed), outcome
    return json.loads(outcome.result)


def reason_of(outcome: Outcome | None) -> str:
    assert isinstance(outcome, Failed), outcome
    reason: str = json.loads(outcome.error)["errorReason"]
    return reason


def counts_users(message: Message) -> int:
    return User.objects.count()


def test_a_thread_whose_handlers_use_no_database_opens_no_connection(run: Run) -> None:
    def looks(message: Message) -> list[bool]:
        return [databases.opened(), bool(connections.all(initialized_only=True))]

    assert [result_of(run(looks)) for _ in range(2)] == [[False, False]] * 2


@pytest.fixture
def lasting() -> Iterator[None]:
    """Connections that are kept, as on PostgreSQL."""
    connections.settings["default"]["CONN_MAX_AGE"], before = None, connections.settings["default"]["CONN_MAX_AGE"]
    yield
    connections.settings["default"]["CONN_MAX_AGE"] = before


pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.usefixtures("lasting")
def test_a_connection_is_kept_while_all_is_well(run: Run) -> None:
    def uses(message: Message) -> int:
        counts_users(message)
        return id(connection.connection)

    assert result_of(run(uses)) == result_of(run(uses))


@pytest.mark.usefixtures("lasting")
@pytest.mark.parametrize("when", ["after use", "in use"])
def test_a_dead_connection_costs_at_most_one_attempt(run: Run, when: str) -> None:
    def loses_it(message: Message) -> int:
        counts_users(message)
        connection.connection.close()  # as a restart of the server does, behind Django's back
        return counts_users(message) if when == "in use" else 0

    assert isinstance(run(loses_it), Completed if when == "after use" else Failed)

    assert [result_of(run(counts_users)) for _ in range(3)] == [0, 0, 0]


@pytest.mark.usefixtures("lasting")
def test_a_connection_with_an_error_is_not_used_again(run: Run) -> None:
    seen: list[Any] = []

    def fails(message: Message) -> None:
        try:
            connection.cursor().execute("SELECT * FROM nowhere")
        except DatabaseError:
            seen.append(connection.connection)

    run(fails)
    run(fails)

    assert seen[0] is not seen[1]


def leaves_by_autocommit(message: Message) -> None:
    transaction.set_autocommit(False)
    User.objects.create(username="left")


def leaves_by_block(message: Message) -> None:
    transaction.atomic().__enter__()
    User.objects.create(username="left")


def leaves_by_two_blocks(message: Message) -> None:
    transaction.atomic().__enter__()
    leaves_by_block(message)


def leaves_by_hand(message: Message) -> None:
    connection.cursor().execute("BEGIN")
    User.objects.create(username="left")


async def leaves_in_a_coroutine(message: Message) -> None:
    await sync_to_async(leaves_by_block)(message)


LEAVE = [leaves_by_autocommit, leaves_by_block, leaves_by_two_blocks, leaves_by_hand, leaves_in_a_coroutine]


@pytest.mark.usefixtures("lasting")
@pytest.mark.parametrize("leaves", LEAVE)
def test_a_transaction_left_open_is_rolled_back_and_no_success(run: Run, leaves: Any) -> None:
    def writes(message: Message) -> bool:
        User.objects.create(username=f"kept-{User.objects.count()}")
        return connection.get_autocommit() and not connection.in_atomic_block

    reason = reason_of(run(leaves))

    assert "transaction on the database 'default' was open" in reason
    assert result_of(run(writes))
    assert [user.username for user in User.objects.all()] == ["kept-0"]


@pytest.mark.parametrize("leaves", LEAVE[:-1])
def test_a_failure_that_leaves_a_transaction_open_stays_that_failure(
    run: Run, leaves: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(message: Message) -> None:
        leaves(message)
        raise KeyError("its own")

    assert reason_of(run(fails)) == "KeyError: 'its own'"

    assert "transaction_left_open" in [record.message for record in caplog.records]
    assert result_of(run(counts_users)) == 0


def test_a_transaction_of_ones_own_that_was_committed_is_a_success(run: Run) -> None:
    def commits(message: Message) -> bool:
        transaction.set_autocommit(False)
        User.objects.create(username="kept")
        transaction.commit()
        return True

    assert result_of(run(commits))
    assert result_of(run(counts_users)) == 1


def test_a_transaction_around_the_attempt_is_left_alone() -> None:
    with transaction.atomic(), handling(counts_users) as type_:
        outcome = Runner("w-1").run(Attempt(a_claimed(type=type_), time.monotonic()))
        assert connection.in_atomic_block
        User.objects.create(username="kept")

    assert result_of(outcome) == 0
    assert User.objects.count() == 1


@pytest.mark.skipif("connection.vendor != 'sqlite'")
def test_nothing_of_an_sqlite_connection_reaches_the_next_message(run: Run) -> None:
    kept: list[Any] = []

    def leaves(message: Message) -> None:
        User.objects.bulk_create(User(username=str(number)) for number in range(3))
        cursor = connection.cursor()
        cursor.execute("CREATE TEMP TABLE auth_group AS SELECT 1 AS other")
        cursor.execute("SELECT * FROM auth_user")
        cursor.fetchone()
        kept.append(cursor)  # half read: holds a snapshot of the data
        connection.cursor().execute("PRAGMA query_only = ON")

    def writes(message: Message) -> list[int]:
        User.objects.create(username="next")
        return [User.objects.filter(username__in=["next", "other"]).count(), Group.objects.filter(name="x").count()]

    assert isinstance(run(leaves), Completed)
    User.objects.create(username="other")

    assert result_of(run(writes)) == [2, 0]


SESSION = (
    "SELECT current_setting('statement_timeout'), current_setting('search_path'), current_setting('TimeZone'), "
    "nullif(current_setting('app.tenant', true), ''), current_setting('default_transaction_read_only'), "
    "(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'), (SELECT count(*) FROM pg_listening_channels()), "
    "to_regclass('pg_temp.left_here')::text, (SELECT count(*) FROM pg_prepared_statements), "
    "(SELECT count(*) FROM pg_cursors), pg_backend_pid()"
)


@pytest.mark.skipif("connection.vendor != 'postgresql'")
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_a_postgresql_session_reaches_the_next_message(run: Run, fails: bool) -> None:
    def session(message: Message) -> list[Any]:
        cursor = connection.cursor()
        cursor.execute(SESSION)
        raw = connection.connection
        return [*cursor.fetchone(), raw.read_only, raw.isolation_level, raw.patience_s]

    def leaves(message: Message) -> None:
        raw = connection.connection  # past Django
        for statement in (
            "SET statement_timeout = 1", "SET search_path = pg_catalog", "SET TIME ZONE 'Asia/Tokyo'",
            "SET app.tenant = 'acme'", "SET default_transaction_read_only = on", "SELECT pg_advisory_lock(4711)",
            "LISTEN letters", "PREPARE left_here AS SELECT 1", "CREATE TEMP TABLE left_here AS SELECT 1",
            "DECLARE left_here CURSOR WITH HOLD FOR SELECT 1",
        ):  # fmt: skip
            raw.execute("SET statement_timeout = 0")
            raw.execute("SET default_transaction_read_only = off")
            raw.execute(statement)
        raw.read_only = True
        raw.patience_s = None
        if fails:
            raise KeyError

    before = result_of(run(session))
    assert isinstance(run(leaves), Failed if fails else Completed)
    with connection.cursor() as others:
        others.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        assert others.fetchone() == (0,), "freed at once, not when the thread has its next message"

    assert result_of(run(session)) == before, "and it is the same connection"


def test_a_coroutine_may_use_the_database(run: Run) -> None:
    async def uses(message: Message) -> int:
        await User.objects.acreate(username=f"kept-{await User.objects.acount()}")
        return await User.objects.acount()

    assert [result_of(run(uses)) for _ in range(2)] == [1, 2]


_variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")


def sets(message: Message) -> None:
    timezone.activate("Asia/Tokyo")
    translation.activate("de")
    decimal.getcontext().prec = 3
    decimal.getcontext().traps[decimal.Inexact] = True
    _variable.set("left")


async def sets_in_a_coroutine(message: Message) -> None:
    sets(message)
    await sync_to_async(sets)(message)
    await asyncio.sleep(0)


def sets_and_fails(message: Message) -> None:
    sets(message)
    raise KeyError


def sets_when_it_is_read(message: Message) -> None:
    class Error(Exception):
        def __str__(self) -> str:
            sets(message)
            return "text"

    raise Error


@pytest.mark.parametrize("leaves", [sets, sets_in_a_coroutine, sets_and_fails, sets_when_it_is_read])
def test_what_a_handler_sets_for_itself_does_not_reach_the_next_message(run: Run, leaves: Any) -> None:
    def seen(message: Message) -> list[Any]:
        zone, language = str(timezone.get_current_timezone()), translation.get_language()
        return [zone, language, decimal.getcontext().prec, str(decimal.Decimal(1) / 3)[:10], _variable.get()]

    async def seen_in_a_coroutine(message: Message) -> list[Any]:
        return seen(message)

    before = result_of(run(seen))
    run(leaves)

    assert before[2:] == [28, "0.33333333", ""]
    assert result_of(run(seen)) == before
    assert result_of(run(seen_in_a_coroutine)) == before
