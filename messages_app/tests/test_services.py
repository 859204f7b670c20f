"""Intake as the dead-letter queue sees it, and attempts of RQ's own worker."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from dlq_app.conf import intake
from dlq_app.domain.errors import OrderRefused, PayloadInvalid
from dlq_app.domain.errors import StoreUnavailable as IntakeUnavailable
from dlq_app.domain.ports import ForwardOrder, ForwardStatus, IntakePort
from messages_app import services
from messages_app.attempt import report
from messages_app.domain.errors import StoreUnavailable
from messages_app.domain.records import State
from messages_app.envelope import Message
from messages_app.store.ledger import Ledger
from messages_app.tests.handling import an_acceptance, handling

pytestmark = pytest.mark.redis


@pytest.fixture
def port(book: Ledger) -> IntakePort:
    return intake()


def an_order(now_ms: int) -> ForwardOrder:
    return ForwardOrder(
        message_id="m1", epoch=7, type="demo", body=b"{}", run_body=None, version=0, priority="normal", source="api",
        client="c", tags="[]", queued_at_ms=1, acct_day="20260101", replay_id="r-1", batch_id="", death_seen=6,
        deadline_ms=now_ms + 60_000,
    )  # fmt: skip


def test_a_letter_comes_back_as_a_message(port: IntakePort, book: Ledger) -> None:
    order = an_order(port.now_ms())

    assert port.forward(order).status is ForwardStatus.FORWARDED
    assert port.forward(order).status is ForwardStatus.FORWARDED
    assert port.void("m1", 7).exists
    assert book.get("m1").state is State.QUEUED  # type: ignore[union-attr]


def test_a_voided_epoch_never_comes_back(port: IntakePort) -> None:
    order = an_order(port.now_ms())

    assert not port.void("m1", 7).exists
    assert port.forward(order).status is ForwardStatus.VOIDED


@pytest.mark.parametrize("impossible", [{"message_id": "no/such id"}, {"type": ""}, {"priority": "urgent"}])
def test_an_order_that_can_never_be_is_refused_as_such(port: IntakePort, impossible: dict[str, Any]) -> None:
    with pytest.raises(OrderRefused):
        port.forward(replace(an_order(port.now_ms()), **impossible))


@pytest.mark.parametrize("payload", [b"{", b"\xff", b'"\\ud800"', b"[" * 40 + b"]" * 40, b"9" * 30, b""])
def test_a_payload_is_judged_as_at_the_front_door(port: IntakePort, payload: bytes) -> None:
    with pytest.raises(PayloadInvalid):
        port.check_payload(payload)


def test_a_payload_that_intake_would_take_passes(port: IntakePort) -> None:
    port.check_payload(b' {"a": [1, 2]} ')


def test_a_silent_store_is_the_letters_own_kind_of_error(port: IntakePort, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object) -> None:
        raise StoreUnavailable("no answer", retry_after=2)

    monkeypatch.setattr(Ledger, "now_ms", silent)

    with pytest.raises(IntakeUnavailable) as caught:
        port.now_ms()
    assert caught.value.retry_after == 2


def test_a_type_without_a_breaker_may_always_run(port: IntakePort) -> None:
    assert port.retry_after_ms("demo") is None
    assert port.retry_after_ms("nobody.handles") is None


def test_an_attempt_of_rqs_worker_has_the_same_time_limit(book: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(message: Message) -> None:
        while True:
            time.sleep(0.001)

    with handling(endless, timeout=0.2) as type:
        book.accept(an_acceptance(message_id="m1", type=type))
        record = book.get("m1")
        assert record is not None
        assert services.process("m1", record.epoch, 0) == "failed"

    assert '"errorType":"TIMEOUT_ERROR"' in book.get("m1").last_error  # type: ignore[union-attr]


def test_rqs_worker_runs_coroutines_to_their_end(book: Ledger) -> None:
    async def works(message: Message) -> str:
        await asyncio.sleep(0)
        return message.id

    with handling(works) as type_:
        book.accept(an_acceptance(message_id="m1", type=type_))
        record = book.get("m1")
        assert record is not None
        assert services.process("m1", record.epoch, 0) == "completed"

    done = book.get("m1")
    assert done is not None
    assert (done.state, done.result) == (State.DONE, '"m1"')


def test_an_outcome_of_rqs_worker_that_cannot_be_written_is_written_in_short(
    book: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "result", lambda value: "half \ud83e")
    book.accept(an_acceptance(message_id="m1"))
    record = book.get("m1")
    assert record is not None

    assert services.process("m1", record.epoch, 0) == "completed"

    done = book.get("m1")
    assert done is not None
    assert (done.state, "could not be written" in done.result) == (State.DONE, True)


def test_a_stuck_attempt_of_rqs_worker_is_reported_for_it(book: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "GRACE_S", 0.1)
    release = threading.Event()

    with handling(lambda message: release.wait(20), timeout=0.2) as type:
        book.accept(an_acceptance(message_id="m1", type=type))
        record = book.get("m1")
        assert record is not None
        assert services.process("m1", record.epoch, 0) == "failed"
        release.set()

    assert book.get("m1").state is State.RETRY_WAIT  # type: ignore[union-attr]
