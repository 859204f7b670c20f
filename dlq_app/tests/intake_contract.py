"""What every port to intake must do: included by the tests of the fake and of the real one.

Whoever includes ``IntakeContract`` gives it ``port`` and the means to bring a message into a state:
``put(message_id, state, epoch)`` with the states of the ledger, ``settle_waiting`` for a replay done but not yet told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from dlq_app.domain.errors import PayloadInvalid
from dlq_app.domain.ports import ForwardAnswer, ForwardOrder, ForwardStatus, IntakePort, VoidAnswer

Put = Callable[[str, str, int], int]


def an_order(port: IntakePort, message_id: str = "m-1", *, epoch: int, **changes: object) -> ForwardOrder:
    values: dict[str, object] = {
        "message_id": message_id,
        "epoch": epoch,
        "type": "demo",
        "body": b'{"a": 1}',
        "run_body": None,
        "version": 0,
        "priority": "normal",
        "source": "shop",
        "client": "key:shop",
        "tags": '["eu"]',
        "queued_at_ms": 1_700_000_000_000,
        "acct_day": "20261124",
        "replay_id": f"r-{epoch}",
        "batch_id": "",
        "death_seen": 0,
        "deadline_ms": port.now_ms() + 60_000,
        **changes,
    }
    return ForwardOrder(**values)  # type: ignore[arg-type]


class IntakeContract:
    """The table of ``forward`` and ``void``. ``put`` brings a message into a state and answers its epoch."""

    def test_a_forgotten_message_is_made_anew(self, port: IntakePort) -> None:
        assert port.forward(an_order(port, epoch=1001)) == ForwardAnswer(ForwardStatus.FORWARDED)
        assert port.void("m-1", 1001).exists

    def test_the_same_order_again_is_the_same_order(self, port: IntakePort) -> None:
        order = an_order(port, epoch=1001)
        port.forward(order)

        assert port.forward(order).status is ForwardStatus.FORWARDED

    def test_a_voided_epoch_is_never_made(self, port: IntakePort) -> None:
        assert port.void("m-1", 1001) == VoidAnswer(exists=False)

        assert port.forward(an_order(port, epoch=1001)).status is ForwardStatus.VOIDED
        assert port.forward(an_order(port, epoch=1000)).status is ForwardStatus.VOIDED
        assert port.forward(an_order(port, epoch=1002)).status is ForwardStatus.FORWARDED

    def test_the_void_mark_never_falls(self, port: IntakePort) -> None:
        port.void("m-1", 1005)
        port.void("m-1", 1001)

        assert port.forward(an_order(port, epoch=1005)).status is ForwardStatus.VOIDED

    def test_after_its_deadline_an_order_is_not_carried_out(self, port: IntakePort) -> None:
        order = an_order(port, epoch=1001, deadline_ms=port.now_ms() - 1)

        assert port.forward(order).status is ForwardStatus.TOO_LATE
        assert not port.void("m-1", 1001).exists

    def test_a_newer_message_supersedes_the_order(self, port: IntakePort, put: Put) -> None:
        epoch = put("m-1", "queued", 2000)

        assert port.forward(an_order(port, epoch=epoch - 1)) == ForwardAnswer(ForwardStatus.SUPERSEDED, "queued")

    @pytest.mark.parametrize("state", ["queued", "dead_pending", "dead"])
    def test_a_message_that_the_letter_does_not_know_supersedes_any_epoch(
        self, port: IntakePort, put: Put, state: str
    ) -> None:
        epoch = put("m-1", state, 2000)

        order = an_order(port, epoch=epoch + 5, epoch_seen=epoch - 1, death_seen=epoch - 1)
        assert port.forward(order) == ForwardAnswer(ForwardStatus.SUPERSEDED, state)
        assert port.forward(replace(order, epoch_seen=epoch, death_seen=epoch)).status is not ForwardStatus.SUPERSEDED

    @pytest.mark.parametrize("state", ["scheduled", "queued", "running", "retry_wait"])
    def test_an_open_message_is_in_the_way(self, port: IntakePort, put: Put, state: str) -> None:
        epoch = put("m-1", state, 2000)

        assert port.forward(an_order(port, epoch=epoch + 1)) == ForwardAnswer(ForwardStatus.BUSY, state)

    def test_a_death_that_the_letter_has_not_seen_is_in_the_way(self, port: IntakePort, put: Put) -> None:
        epoch = put("m-1", "dead_pending", 2000)

        answer = port.forward(an_order(port, epoch=epoch + 1, death_seen=epoch - 1))
        assert answer == ForwardAnswer(ForwardStatus.BUSY, "dead_pending")

    def test_a_death_that_the_letter_has_seen_is_not(self, port: IntakePort, put: Put) -> None:
        epoch = put("m-1", "dead_pending", 2000)

        assert port.forward(an_order(port, epoch=epoch + 1, death_seen=epoch)).status is ForwardStatus.FORWARDED

    def test_a_dead_message_runs_again(self, port: IntakePort, put: Put) -> None:
        epoch = put("m-1", "dead", 2000)

        assert port.forward(an_order(port, epoch=epoch + 1, death_seen=epoch)).status is ForwardStatus.FORWARDED

    def test_a_done_message_runs_again_only_by_force(self, port: IntakePort, put: Put) -> None:
        epoch = put("m-1", "done", 2000)

        assert port.forward(an_order(port, epoch=epoch + 1)).status is ForwardStatus.ALREADY_DONE
        assert port.forward(an_order(port, epoch=epoch + 1, force=True)).status is ForwardStatus.FORWARDED

    def test_void_tells_the_state_of_what_exists(self, port: IntakePort, put: Put) -> None:
        epoch = put("m-1", "dead", 2000) + 1
        port.forward(an_order(port, epoch=epoch, death_seen=epoch - 1))

        assert port.void("m-1", epoch) == VoidAnswer(exists=True, state="queued")
        assert port.void("m-1", epoch - 1) == VoidAnswer(exists=False)

    def test_a_message_accepted_with_the_epoch_of_a_claim_is_not_its_replay(self, port: IntakePort, put: Put) -> None:
        epoch = put("m-1", "running", 2000)
        order = an_order(port, epoch=epoch, epoch_seen=epoch - 9, death_seen=epoch - 9)

        assert port.forward(order) == ForwardAnswer(ForwardStatus.SUPERSEDED, "running")
        assert port.void("m-1", epoch) == VoidAnswer(exists=False)

    @pytest.mark.parametrize(
        ("state", "is_open"),
        [
            ("scheduled", True),
            ("queued", True),
            ("running", True),
            ("retry_wait", True),
            ("dead_pending", True),
            ("dead", False),
            ("done", False),
        ],
    )
    def test_it_knows_which_messages_are_under_way(self, port: IntakePort, put: Put, state: str, is_open: bool) -> None:
        put("m-1", state, 2000)

        assert port.open_among(["m-0", "m-1"]) == ({"m-1"} if is_open else set())
        assert port.open_among([]) == set()

    def test_it_checks_payloads(self, port: IntakePort) -> None:
        port.check_payload(b'{"a": 1}')
        with pytest.raises(PayloadInvalid) as caught:
            port.check_payload(b"{")
        assert caught.value.errors

    def test_time_goes_on(self, port: IntakePort) -> None:
        before = port.now_ms()

        assert 1_500_000_000_000 < before <= port.now_ms()
