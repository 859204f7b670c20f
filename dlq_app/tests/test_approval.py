"""What one person may start within an hour: counted by the server, summed, reserved atomically, given back."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
from django.test import Client
from pymongo.database import Database
from pytest_django import Settings

from dlq_app.domain.errors import ApprovalNeeded, QueryTooSlow, StoreUnavailable
from dlq_app.domain.replay_batch import BatchOrder
from dlq_app.domain.states import Verb
from dlq_app.services import approval, batches
from dlq_app.store import repository
from dlq_app.store.repository import Items, Selection
from dlq_app.tests.batch_rig import Rig
from dlqsite.tests.people import member, signed_in, staff

pytestmark = [pytest.mark.mongo, pytest.mark.redis, pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]

START = "/api/dlq/replay-batch"
MANY = "/admin/dlq_app/deadletter/many/discard/"
Store = Database[dict[str, Any]]


@pytest.fixture(autouse=True)
def _five(settings: Settings, rig: Rig) -> None:
    settings.DLQ_APPROVAL_SIZE = 5
    rig.die(*(f"m-{n}" for n in range(30)))


def ids(batch: int, size: int = 5) -> list[str]:
    return [f"m-{n}" for n in range(batch * size, (batch + 1) * size)]


def post(client: Client, **body: Any) -> Any:
    return client.post(START, body, content_type="application/json")


def start(batch: int, actor: str = "user:otto", **options: Any) -> Any:
    return approval.start(BatchOrder.parse({"ids": ids(batch)}), actor=actor, unlimited=False, **options)


def discard(client: Client, count: int, **fields: str) -> Any:
    """Send the confirmation of a bulk move without having looked at it."""
    as_of = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    return client.post(MANY, {"count": str(count), "as_of": as_of, "reason": "tidying", **fields})


def discarded(store: Store) -> int:
    return store["dead_letters"].count_documents({"status": "dlq_resolved"})


def pass_time(store: Store, by: timedelta) -> None:
    """Everything that was started so far was started so much earlier."""
    for one in store["dlq_approvals"].find():
        starts = [{**start, "at": start["at"] - by} for start in one["starts"]]
        store["dlq_approvals"].update_one({"_id": one["_id"]}, {"$set": {"starts": starts}})


def test_batches_in_a_row_are_summed(olga: Client, ada: Client) -> None:
    answers = [post(olga, ids=ids(n)) for n in range(3)] + [post(olga, filter={"type": "payment.capture"}, limit=5)]

    assert [answer.status_code for answer in answers] == [202, 403, 403, 403]
    problem = answers[1].json()
    assert problem["code"] == "approval_needed"
    assert "5 letters and the 5 that you started within the last hour are 10." in problem["detail"]
    assert "More than 5 letters within an hour need the administrator role" in problem["detail"]
    again = re.search(r"You can start 5 at (\S+Z)\.", problem["detail"])
    assert again is not None
    assert timedelta(minutes=59) < datetime.fromisoformat(again[1]) - datetime.now(UTC) <= timedelta(hours=1)
    assert len(batches.page().batches) == 1
    assert [post(ada, ids=ids(n)).status_code for n in (1, 2)] == [202, 202], "administrators have no limit"


def test_after_an_hour_there_is_room_again(store: Store) -> None:
    start(0)
    with pytest.raises(ApprovalNeeded):
        start(1)
    pass_time(store, timedelta(minutes=59))
    with pytest.raises(ApprovalNeeded):
        start(1)
    pass_time(store, timedelta(minutes=1))

    assert start(1).total == 5
    assert approval.used("user:otto") == 5


def test_the_time_named_is_the_one_at_which_it_fits(store: Store) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    starts = [{"id": f"b-{n}", "count": 2, "at": now - timedelta(minutes=40 - n)} for n in range(2)]
    store["dlq_approvals"].insert_one({"_id": "user:otto", "starts": starts})

    assert approval.why_not("user:otto", 1) == ""
    for count, minute in ((2, 20), (3, 20), (4, 21), (5, 21)):
        at = (now + timedelta(minutes=minute)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        assert f"You can start {count} at {at}." in approval.why_not("user:otto", count)
    assert "Choose fewer" in approval.why_not("user:otto", 6)
    assert approval.why_not("user:olga", 5) == "", "each has a sum of their own"


def test_of_starts_at_once_only_those_pass_that_fit(store: Store) -> None:
    together = Barrier(6)

    def begin(batch: int) -> int:
        together.wait()
        try:
            return int(start(batch).total)
        except ApprovalNeeded:
            return 0

    with ThreadPoolExecutor(6) as pool:
        totals = list(pool.map(begin, range(6)))

    assert sorted(totals) == [0, 0, 0, 0, 0, 5]
    assert store["replay_items"].count_documents({}) == 5


def test_a_moves_number_from_the_browser_does_not_raise_the_sum(store: Store) -> None:
    otto = signed_in(member("operator"))

    assert discard(otto, 30).status_code == 403
    assert discarded(store) == 0
    assert discard(otto, 3).status_code == 302
    assert discard(otto, 3).status_code == 403
    assert discard(otto, 2).status_code == 302
    assert discard(otto, 1).status_code == 403
    assert discarded(store) == 5
    html = otto.get(MANY).content.decode()
    assert "the 5 that you started within the last hour" in html
    assert discard(signed_in(member("administrator")), 25).status_code == 302
    assert discarded(store) == 30


def test_a_number_above_what_is_there_counts_as_what_is_there(store: Store) -> None:
    otto = signed_in(member("operator"))
    store["dead_letters"].update_many({"messageId": {"$nin": ids(0)}}, {"$set": {"status": "dlq_resolved"}})

    assert discard(otto, 9_999).status_code == 302
    assert approval.used("user:operator") == 5


def test_moves_and_batches_and_rest_and_console_share_the_sum() -> None:
    otto = staff("otto", "replay")

    assert post(otto, ids=ids(0, 3)).status_code == 202
    assert discard(otto, 2).status_code == 302
    assert post(otto, ids=ids(4, 1)).status_code == 403


def test_what_was_not_started_is_given_back(monkeypatch: pytest.MonkeyPatch, rig: Rig) -> None:
    count = batches.dry_run

    def count_and_resolve(order: BatchOrder) -> Any:
        found = count(order)
        rig.letters.discard(rig.letter("m-0").id, who="user:ann", why="", now=datetime.now(UTC))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(batches, "dry_run", count_and_resolve)
        assert start(0).total == 4
    assert approval.used("user:otto") == 4

    def too_slow(*_: object) -> int:
        raise QueryTooSlow

    with monkeypatch.context() as patch:
        patch.setattr(Items, "plan", too_slow)
        with pytest.raises(QueryTooSlow):
            approval.start(BatchOrder.parse({"ids": ["m-9"]}), actor="user:otto", unlimited=False)
    assert approval.used("user:otto") == 4
    which = Selection(ids=(rig.letter("m-9").id,), as_of=datetime.now(UTC) - timedelta(days=365))
    assert approval.move_many(which, Verb.DISCARD, count=1, actor="user:otto", reason="", unlimited=False).count == 0
    assert approval.used("user:otto") == 4


def test_a_start_that_is_repeated_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> int:
        raise StoreUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(Items, "plan", lost)
        with pytest.raises(StoreUnavailable):
            start(0, batch_id="b-1")
    assert approval.used("user:otto") == 5, "nobody knows whether it was started"
    with pytest.raises(ApprovalNeeded):
        start(1)
    monkeypatch.setattr(batches, "REPLAN_AFTER", timedelta(0))

    assert start(0, batch_id="b-1").total == 5
    assert start(0, batch_id="b-1").total == 5
    assert approval.used("user:otto") == 5
    # By the larger number: what the first planned is not known to the second.
    assert repository.approvals().reserve("user:otto", "b-1", 2, size=5, window=approval.WINDOW) is None
    assert approval.used("user:otto") == 5
    assert repository.approvals().reserve("user:otto", "b-1", 6, size=5, window=approval.WINDOW) == []
