"""Deliveries through the whole system, with a receiver that fails and is mended and one that never does."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest

from dlqsite.tests.journeys.rig import Reply, Rig
from dlqsite.tests.patience import eventually
from dlqsite.tests.receiver import Receiver

pytestmark = [pytest.mark.journey, pytest.mark.redis, pytest.mark.mongo, pytest.mark.timeout(300)]

OPEN_S = 8.0


@dataclass
class Scene:
    """The running system between two receivers."""

    rig: Rig
    failing: Receiver
    sound: Receiver

    def breaker(self, receiver: Receiver) -> dict[str, Any]:
        reply = self.rig.get(f"/api/breakers/http:127.0.0.1:{receiver.port}")
        assert reply.status == 200, reply.raw
        answer: dict[str, Any] = reply.data
        return answer

    def story(self, receiver: Receiver) -> list[tuple[datetime, str, str]]:
        """When its breaker went from what to what, the oldest first."""
        moves = reversed(self.breaker(receiver)["transitions"])
        return [(datetime.fromisoformat(move["at"]), move["from"], move["to"]) for move in moves]

    def submit(self, name: str, receiver: Receiver, count: int) -> list[str]:
        """Submit ``count`` deliveries at once; their ids."""
        ids = [f"{name}-{number}" for number in range(count)]
        payload = {"url": receiver.url, "body": {"n": 1.10}}
        messages = [{"messageId": one, "type": "http.deliver", "payload": payload} for one in ids]
        reply = self.rig.post("/api/messages/batch", {"messages": messages})
        assert reply.data["counts"]["accepted"] == count, reply.raw
        return ids

    def until_all_done(self, ids: list[str], seconds: float) -> None:
        eventually(lambda: self.rig.statuses(ids) == {"done": len(ids)}, seconds=seconds, every=0.5, what="all done")

    def attempts(self, ids: list[str]) -> list[dict[str, Any]]:
        return [attempt for one in ids for attempt in self.rig.message(one)["attempts"]]


@pytest.fixture
def scene(rig: Rig, receivers: tuple[Receiver, Receiver]) -> Scene:
    for receiver in receivers:
        receiver.mode, receiver.status = "ok", 0
        receiver.seen.clear()
        receiver.accepted.clear()
        reset = rig.post(f"/api/breakers/http:127.0.0.1:{receiver.port}/reset", {"reason": "a test begins"})
        assert reset.status == 200, reset.raw
    return Scene(rig, *receivers)


def test_both_breakers_are_known_before_any_message(scene: Scene) -> None:
    names = {breaker["name"] for breaker in scene.rig.get("/api/breakers").data}

    assert {f"http:127.0.0.1:{receiver.port}" for receiver in (scene.failing, scene.sound)} <= names


def test_a_destination_fails_is_left_alone_and_is_served_when_it_is_mended(scene: Scene) -> None:
    rig, failing, sound = scene.rig, scene.failing, scene.sound
    failing.mode = "error"

    held = scene.submit("held", failing, 20)
    others = scene.submit("others", sound, 20)

    eventually(lambda: scene.breaker(failing)["state"] == "OPEN", seconds=15, what="the breaker is open")

    def refusal() -> Reply | None:
        """Intake's; a submission that it still takes is one more that is held."""
        name = f"held-{len(held)}"
        submission = {"messageId": name, "type": "http.deliver", "payload": {"url": failing.url, "body": 1}}
        reply = rig.post("/api/messages", submission)
        if reply.status != 202:
            return reply
        held.append(name)
        return None

    # Intake refuses what goes there, and only that; each web process looks at a breaker four times a second.
    refused = eventually(refusal, seconds=5, every=0.1, what="intake refuses")
    assert refused.status == 503, refused.raw
    assert refused.json["code"] == "circuit_open"
    assert 1 <= int(refused.headers["Retry-After"]) <= OPEN_S
    taken = rig.submit({"url": sound.url, "body": 1}, type="http.deliver", messageId="meanwhile")
    rig.until(taken, "done", seconds=15)
    scene.until_all_done(others, seconds=15)

    # It stays broken for one more period.
    eventually(lambda: ["HALF_OPEN", "OPEN"] in [move for _, *move in scene.story(failing)], seconds=45)
    failing.mode = "ok"
    scene.until_all_done(held, seconds=90)
    eventually(lambda: scene.breaker(failing)["state"] == "CLOSED", seconds=10, what="closed")

    assert failing.accepted == dict.fromkeys(held, 1), "each was accepted once"
    assert all(seen.signed for seen in failing.seen)
    attempts = scene.attempts(held)
    assert len(attempts) == len(failing.seen), "waiting uses up no attempt"
    assert {attempt["errorType"] for attempt in attempts} == {"SERVICE_UNAVAILABLE", None}

    # By the books, since nobody knows when a busy machine gets to look. Calls that had begun before it opened may end;
    # then nothing begins for as long as it is open, and a few probes find out, not everything that waits.
    story = scene.story(failing)
    start = next(place for place, (_, *move) in enumerate(story) if move == ["CLOSED", "OPEN"])
    (opened, *first), (tried, *second), (_, *third), (tried_again, *_) = story[start : start + 4]
    assert (first, second, third) == (["CLOSED", "OPEN"], ["OPEN", "HALF_OPEN"], ["HALF_OPEN", "OPEN"])
    begun = [datetime.fromisoformat(attempt["startedAt"]) for attempt in attempts]
    assert [at for at in begun if opened + timedelta(seconds=1) <= at < tried] == []
    assert 1 <= sum(tried <= at < tried_again for at in begun) <= 10

    # The other destination noticed nothing of it.
    assert sound.accepted == dict.fromkeys([*others, "meanwhile"], 1)
    assert len(scene.attempts(others)) == 20
    assert scene.breaker(sound)["state"] == "CLOSED"
    assert {move["reason"] for move in scene.breaker(sound)["transitions"]} <= {"a test begins"}


def test_a_redis_that_stands_still_neither_opens_the_gates_nor_holds_anything(scene: Scene) -> None:
    rig, failing = scene.rig, scene.failing
    failing.mode, failing.status, failing.delay_s = "slow", 500, 0.2
    ids = scene.submit("still", failing, 60)
    eventually(lambda: len(failing.seen) >= 5, seconds=10, what="deliveries are under way")

    rig.kill("redis", signal.SIGSTOP)
    before = len(failing.seen)
    try:
        time.sleep(3.5)
        claimed_before = len(failing.seen)
        time.sleep(2)
        arrived = len(failing.seen)
    finally:
        rig.kill("redis", signal.SIGCONT)

    # What had been claimed may go on: what ran on ten threads, and the little that waited behind it. Then nothing more.
    assert arrived == claimed_before
    keys = [seen.key for seen in failing.seen[before:arrived]]
    assert len(keys) == len(set(keys)) < len(ids), "each claimed message once, and not all that waits"
    failing.mode, failing.status = "ok", 0
    scene.until_all_done(ids, seconds=90)
    assert failing.accepted == dict.fromkeys(ids, 1)
    assert rig.get("/api/dlq?type=http.deliver").json["data"] == []


def test_a_replay_asks_the_breaker_of_where_it_goes(scene: Scene) -> None:
    rig, failing, sound = scene.rig, scene.failing, scene.sound
    failing.mode = "redirect"
    (message_id,) = scene.submit("moved", failing, 1)
    rig.until(message_id, "dead", seconds=15)
    name = f"http:127.0.0.1:{failing.port}"
    assert rig.post(f"/api/breakers/{name}/force-open", {"reason": "a drill"}).status == 200

    refused = rig.post(f"/api/dlq/{message_id}/replay")
    edited = rig.post(f"/api/dlq/{message_id}/replay", {"payload": {"url": sound.url, "body": 2}, "reason": "moved"})

    assert (refused.status, refused.json["code"]) == (503, "circuit_open"), refused.raw
    assert edited.status == 202, edited.raw
    eventually(lambda: rig.letter(message_id)["status"] == "dlq_resolved", seconds=15, what="resolved")
    assert sound.accepted == {f"{message_id}:v1": 1}
    assert len(failing.seen) == 1


def test_what_the_policy_does_not_allow_is_a_letter_that_says_so(scene: Scene) -> None:
    for url, said in (
        ("http://127.0.0.1:1/", '[hosts."127.0.0.1"]'),
        ("http://169.254.169.254/latest/meta-data/", '[hosts."169.254.169.254"]'),
        (f"http://2130706433:{scene.failing.port}/", "oddly"),
    ):
        message_id = scene.rig.submit({"url": url, "body": 1}, type="http.deliver")
        message = scene.rig.until(message_id, "dead", seconds=15)
        letter = scene.rig.letter(message_id)

        assert len(message["attempts"]) == 1
        assert (letter["errorType"], letter["status"]) == ("VALIDATION_ERROR", "dlq_manual")
        assert said in letter["errorReason"]
    assert scene.failing.seen == []
