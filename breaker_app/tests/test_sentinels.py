"""The address of the primary: what a URL with Sentinels may contain, and which of their answers counts."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from breaker_app import primary
from breaker_app.errors import StoreUnavailable
from breaker_app.redis_url import read_sentinel_url, url_problem
from breaker_app.sentinels import FRESH_S, Answer, NoPrimary, Watch, _is_candidate, client_of, forget_watches
from breaker_app.store import RedisBreakerStore

THREE = "redis+sentinel://one:26379,two:26379,three:26379/dlq/0"
OLD, NEW = ("10.0.0.1", 6379), ("10.0.0.2", 6379)


def test_a_url_names_sentinels_service_and_credentials_of_both() -> None:
    found = read_sentinel_url(
        "rediss+sentinel://ann:p%40ss@one,[2001:db8::2]:26380,10.0.0.3:7/dlq.main/2"
        "?sentinel_username=watch&sentinel_password=s%26w&ssl_ca_certs=/ca.pem&ssl_check_hostname=false"
    )
    assert found.sentinels == (("one", 26379), ("2001:db8::2", 26380), ("10.0.0.3", 7))
    assert (found.service, found.is_tls) == ("dlq.main", True)
    tls = {"ssl_ca_certs": "/ca.pem", "ssl_check_hostname": False}
    assert found.options == {"username": "ann", "password": "p@ss", "db": 2, **tls}
    assert found.sentinel_options == {"username": "watch", "password": "s&w", **tls}
    assert read_sentinel_url("redis+sentinel://one/dlq").options == {"db": 0}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis+sentinel:///dlq", "HOST:PORT as Sentinel 1"),
        ("redis+sentinel://one,two:many/dlq", "HOST:PORT as Sentinel 2"),
        ("redis+sentinel://one:70000/dlq", "HOST:PORT as Sentinel 1"),
        ("redis+sentinel://2001:db8::2/dlq", "needs brackets"),
        ("redis+sentinel://one,one:26379/dlq", "twice"),
        ("redis+sentinel://one:26379", "name of a service"),
        ("redis+sentinel://one/a b", "name of a service"),
        ("redis+sentinel://one/dlq/first", "database that is not a number"),
        ("redis+sentinel://:secret@one/dlq?socket_timeout=9", "unknown option socket_timeout"),
        ("redis+sentinel://:secret@one/dlq?ssl_ca_certs=/x", "needs rediss+sentinel://"),
        ("rediss+sentinel://:secret@one/dlq?ssl_cert_reqs=maybe", "none, optional, required"),
        ("redis+sentinel://:sec@ret@one/dlq", "%40"),
        ("redis+sentinel://:sec/secret@one/dlq", "%2F"),
    ],
)
def test_an_invalid_url_is_refused_without_its_password(url: str, said: str) -> None:
    problem = url_problem(url)
    assert problem.startswith("REDIS_URL ")
    assert said in problem
    assert problem.endswith("/SERVICE/NUMBER.")
    assert "secret" not in problem


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """A watch that hears what the test makes it hear."""
    watch = Watch(read_sentinel_url(THREE), monotonic=clock)
    monkeypatch.setattr(watch, "_start", lambda: None)
    return watch


def hear(watch: Watch, clock: Clock, *answers: tuple[tuple[str, int], int] | str | None) -> None:
    for number, said in enumerate(answers):
        if isinstance(said, str):
            watch._heard(number, Answer(clock.now, trouble=said))
        elif said is not None:
            watch._heard(number, Answer(clock.now, primary=said[0], epoch=said[1], has_quorum=True))


def test_the_answer_of_the_last_fail_over_counts_and_old_sockets_are_left(watch: Watch, clock: Clock) -> None:
    hear(watch, clock, (OLD, 4), (OLD, 4), (OLD, 4))
    before = primary.demotions()
    assert watch.primary(0) == OLD
    hear(watch, clock, None, (NEW, 5))
    assert watch.primary(0) == NEW
    assert primary.demotions() == before + 1
    hear(watch, clock, (NEW, 5), None, (NEW, 5))
    assert primary.demotions() == before + 1


def test_a_sentinel_that_was_cut_off_does_not_bring_back_the_old_primary(watch: Watch, clock: Clock) -> None:
    hear(watch, clock, (OLD, 4), (NEW, 5), (NEW, 5))
    clock.now += FRESH_S + 1
    hear(watch, clock, (OLD, 4), "no answer", "no answer")
    with pytest.raises(NoPrimary, match="earlier primary"):
        watch.primary(0)
    # Most Sentinels may not have heard of the last fail-over yet.
    hear(watch, clock, (OLD, 4), (OLD, 4), (NEW, 5))
    hear(watch, clock, None, None, "no answer")
    with pytest.raises(NoPrimary, match="earlier primary"):
        watch.primary(0)
    clock.now += FRESH_S + 1
    # Sentinels that were set up again count their fail-overs from the beginning.
    hear(watch, clock, (OLD, 0), (OLD, 0), "no answer")
    assert watch.primary(0) == OLD


ONE, OTHER = ("127.0.0.1", 7001), ("127.0.0.1", 7002)


def test_every_replica_that_could_be_promoted_must_confirm(watch: Watch, clock: Clock) -> None:
    watch._heard(0, Answer(clock.now, primary=OLD, epoch=4, candidates=frozenset({ONE})))
    watch._heard(1, Answer(clock.now, primary=OLD, epoch=4, candidates=frozenset({ONE, OTHER})))
    assert watch.confirming([]) == 2
    watch._heard(1, Answer(clock.now, primary=NEW, epoch=5, candidates=frozenset({OTHER})))
    assert watch.confirming([]) == 1, "the others speak of the old primary"


def test_a_replica_that_is_no_candidate_yet_does_not_confirm_for_one_that_is(watch: Watch, clock: Clock) -> None:
    watch._heard(0, Answer(clock.now, primary=OLD, epoch=4, candidates=frozenset({ONE})))

    assert watch.confirming([ONE]) == 1
    assert watch.confirming([OTHER]) == 2, "it has just joined, and Sentinel may promote the one that has left"


def test_a_replica_that_was_connected_a_moment_ago_may_be_the_one_that_is_promoted(watch: Watch, clock: Clock) -> None:
    watch._heard(0, Answer(clock.now, primary=OLD, epoch=4, candidates=frozenset({ONE})))
    watch.note_connected([ONE, OTHER])
    clock.now += 1
    assert watch.confirming([ONE]) == 2

    clock.now += 5
    watch._heard(0, Answer(clock.now, primary=OLD, epoch=4, candidates=frozenset({ONE})))
    assert watch.confirming([ONE]) == 1, "it is down"


def test_a_replica_counts_while_it_may_be_promoted(watch: Watch, clock: Clock) -> None:
    watch._heard(0, Answer(clock.now, primary=OLD, epoch=4, candidates=frozenset({ONE, OTHER})))
    clock.now += 1
    watch._heard(0, Answer(clock.now, primary=OLD, epoch=4, candidates=frozenset({OTHER})))
    assert watch.confirming([OTHER]) == 2

    clock.now += 5
    watch._heard(0, Answer(clock.now, primary=OLD, epoch=4, candidates=frozenset({OTHER})))
    assert watch.confirming([OTHER]) == 1, "it is down"


@pytest.mark.parametrize(
    ("differing", "counts"),
    [
        ({}, True),
        ({b"flags": b"s_down,slave"}, False),
        ({b"flags": b"slave,disconnected"}, False),
        ({b"master-link-status": b"err"}, False),
        ({b"slave-priority": b"0"}, False),
        ({b"port": b"6379"}, False),
    ],
)
def test_a_replica_that_sentinel_would_not_promote_need_not_confirm(
    differing: dict[bytes, bytes], counts: bool
) -> None:
    replica = {
        b"flags": b"slave",
        b"master-link-status": b"ok",
        b"slave-priority": b"100",
        b"ip": b"::1",
        b"port": b"1",
    }
    assert _is_candidate({**replica, **differing}, [b"::1", b"6379"]) is counts


def test_an_answer_counts_for_seconds_only(watch: Watch, clock: Clock) -> None:
    hear(watch, clock, (OLD, 4), (OLD, 4), (OLD, 4))
    clock.now += FRESH_S + 1
    with pytest.raises(NoPrimary, match="None of 3 Sentinels answers"):
        watch.primary(0)
    assert (watch.view(0).primary, watch.view(0).answering) == (None, 0)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (("no answer", "no answer", "no answer"), "None of 3 Sentinels answers"),
        (("no answer", "knows no service dlq", "no answer"), "Sentinel knows no service dlq"),
        (("refuses: NOAUTH Authentication required.", "no answer", "no answer"), "Sentinel refuses: NOAUTH"),
    ],
)
def test_without_an_address_the_reason_is_said_at_once(
    watch: Watch, clock: Clock, answers: tuple[str, ...], said: str
) -> None:
    hear(watch, clock, *answers)
    with pytest.raises(NoPrimary, match=said):
        watch.primary(60)
    assert len(watch.view().troubles) == 3


@pytest.fixture
def nobody() -> Iterator[str]:
    yield "redis+sentinel://127.0.0.1:1,127.0.0.1:2/dlq"
    forget_watches()


def test_breakers_do_not_wait_for_sentinels_that_are_away(nobody: str) -> None:
    store = RedisBreakerStore.from_url(nobody)
    with pytest.raises(StoreUnavailable) as refused:
        store.announced()
    assert isinstance(refused.value.__cause__, NoPrimary)
    assert "None of 2 Sentinels answers" in str(refused.value.__cause__)


def test_no_text_of_a_client_has_a_password(nobody: str) -> None:
    client = client_of(nobody.replace("://", "://ann:secret@") + "?sentinel_password=secret")
    assert "secret" not in repr(client)
    forget_watches()


def test_a_closed_watch_starts_again(nobody: str) -> None:
    watch = Watch(read_sentinel_url(nobody))
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(NoPrimary, match="None of 2"):
            watch.primary(30)
        assert time.monotonic() - began < 20, "it is known at once that none is there"
        watch.close()
