"""Groups: their states, figures and notes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from pymongo.database import Database

from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import CriteriaInvalid, GroupNotFound
from dlq_app.domain.group_states import NEW_FOR, GroupFigures, GroupState, Said, state_of, why_ended
from dlq_app.domain.letter import Death
from dlq_app.services import dead_letters, figures, groups
from dlq_app.services.groups import Group, GroupPage, GroupQuery
from dlq_app.store import repository
from dlq_app.store.groups import GROUPS
from dlq_app.store.groups import groups as groups_store
from dlq_app.store.mongo import LETTERS
from dlq_app.testing import NOON, MemoryIntake, a_death, a_document
from dlqsite.tests.people import audited, staff, with_key

Store = Database[dict[str, Any]]

HOUR = timedelta(hours=1)


#: Beginning of the hours of ``a_group``.
HOURS_FROM = NOON - 23 * HOUR


def a_group(**changes: Any) -> GroupFigures:
    """A group of two days with open letters."""
    values: dict[str, Any] = {
        "fingerprint": "f" * 16,
        "error_type": "E",
        "count": 3,
        "open": 3,
        "first_seen": NOON - timedelta(days=2),
        "last_seen": NOON - HOUR,
        **changes,
    }
    return GroupFigures(**values)


def said(state: GroupState, at: datetime = NOON - 3 * HOUR, **changes: Any) -> Said:
    return Said(state=state, by="olga", at=at, **changes)


# --- states ---


@pytest.mark.parametrize(
    ("what", "happened", "state"),
    [
        (None, {}, "ongoing"),
        (None, {"first_seen": NOON - NEW_FOR + timedelta(seconds=1)}, "new"),
        (None, {"first_seen": NOON - NEW_FOR}, "ongoing"),
        (None, {"open": 0}, "resolved"),
        (said(GroupState.RESOLVED), {"last_seen": NOON - 4 * HOUR}, "resolved"),
        (said(GroupState.RESOLVED), {"last_seen": NOON - 3 * HOUR}, "resolved"),
        (said(GroupState.RESOLVED), {"last_seen": NOON - 2 * HOUR}, "regressed"),
        (said(GroupState.RESOLVED), {"last_seen": NOON - 2 * HOUR, "open": 0}, "resolved"),
        (said(GroupState.RESOLVED), {"first_seen": NOON - HOUR}, "regressed"),
        (said(GroupState.IGNORED), {}, "ignored"),
        (said(GroupState.IGNORED), {"open": 0}, "ignored"),
        (said(GroupState.IGNORED, until=NOON + HOUR), {}, "ignored"),
        (said(GroupState.IGNORED, until=NOON), {}, "ongoing"),
        (said(GroupState.IGNORED, until=NOON), {"first_seen": NOON - HOUR}, "new"),
        (said(GroupState.IGNORED, until_count=20), {"deaths_since": 19}, "ignored"),
        (said(GroupState.IGNORED, until_count=20), {"deaths_since": 20}, "ongoing"),
        (said(GroupState.IGNORED, until_per_hour=10), {"trend": [0] * 23 + [10]}, "ignored"),
        (said(GroupState.IGNORED, until_per_hour=10), {"trend": [0] * 23 + [11]}, "ongoing"),
        (said(GroupState.IGNORED, ended="rate", until=NOON + HOUR), {}, "ongoing"),
    ],
)
def test_the_state_of_a_group(what: Said | None, happened: dict[str, Any], state: str) -> None:
    deaths = happened.get("deaths_since", 0)
    group = a_group(**{name: value for name, value in happened.items() if name != "deaths_since"})

    assert state_of(what, group, NOON, hours_from=HOURS_FROM, deaths_since=deaths) == state


def test_hours_before_it_was_ignored_do_not_end_ignoring() -> None:
    ignored = said(GroupState.IGNORED, at=NOON - 3 * HOUR + timedelta(minutes=5), until_per_hour=10)
    many_before = [99] * 21 + [0] * 3
    many_before[20] = 99  # the hour in which it was ignored

    assert why_ended(ignored, a_group(trend=many_before), NOON, hours_from=HOURS_FROM) == ""
    assert why_ended(ignored, a_group(trend=[0] * 21 + [11, 0, 0]), NOON, hours_from=HOURS_FROM) == "rate"


# --- figures, states and notes ---


pytestmark = pytest.mark.mongo


def die(*ids: str, reason: str = "payments-api did not answer", at: datetime | None = None, **changes: Any) -> str:
    """Letters that died of one thing; its fingerprint."""
    now = at or datetime.now(UTC)
    dead_letters.record_outcomes([a_death(name, error_reason=reason, died_at=now, **changes) for name in ids], [])
    letter = repository.letters().find(ids[0])
    assert letter is not None
    return letter.fingerprint


def only(**query: Any) -> Group:
    (group,) = groups.page(**query).groups
    return group


def test_a_group_shows_what_its_letters_have_in_common(store: Store) -> None:
    name = die("m-1", "m-2", reason="payments-api did not answer within 10 s for order 4711")
    dead_letters.discard("m-1", actor="olga")

    group = groups.get(name)

    assert (group.count, group.open, group.state) == (2, 1, "new")
    assert group.message == "payments-api did not answer within # s for order #"
    assert group.sample == "payments-api did not answer within 10 s for order 4711"
    assert group.frame == "payments/gateway.py:88 capture()"
    assert (group.error_type, group.error_kind, group.types) == (
        "TIMEOUT_ERROR",
        "transient",
        (("payment.capture", 2),),
    )
    assert (sum(group.trend), len(group.trend), group.trend[-1] + group.trend[-2]) == (2, 24, 2)
    assert group.first_seen <= group.as_of
    assert group == replace(only(), as_of=group.as_of)


@pytest.mark.parametrize(
    ("ids", "reason", "title", "telling"),
    [
        (["m-1", "m-2"], "KeyError: 'customerId'", "KeyError: #", "KeyError: 'customerId' and the like"),
        (["m-1"], "KeyError: 'customerId'\nmore", "KeyError: #", "KeyError: 'customerId'"),
        (["m-1", "m-2"], "4711", "#", "4711 and the like"),
        (["m-1", "m-2"], "order 4711 not found", "order # not found", "order # not found"),
        (["m-1"], "שגיאה 4711", "שגיאה #", "שגיאה #"),
        (["m-1"], "", "TIMEOUT_ERROR", "TIMEOUT_ERROR"),
    ],
)
def test_a_title_without_words_is_taken_from_a_letter(
    store: Store, ids: list[str], reason: str, title: str, telling: str
) -> None:
    group = groups.get(die(*ids, reason=reason))

    assert (group.title, group.telling_title) == (title, telling)


def test_the_last_replay_of_a_group(store: Store, intake: MemoryIntake) -> None:
    name = die("m-1", "m-2")
    assert groups.get(name).last_replay is None
    dead_letters.replay("m-1", actor="olga")
    outcome = intake.end("m-1", done=False)
    assert isinstance(outcome, Death)
    same = a_death(
        "m-1",
        epoch=outcome.epoch,
        replay_id="r",
        error_reason="payments-api did not answer",
        died_at=datetime.now(UTC),
    )
    dead_letters.record_outcomes([same], [])

    last = groups.get(name).last_replay

    assert last is not None
    assert last.outcome == "failed_same"
    assert (groups.get(name).replays_succeeded, groups.get(name).replays_failed) == (0, 1)


def test_a_resolved_group_that_fails_again_is_regressed(store: Store) -> None:
    name = die("m-1")
    groups.set_state(name, GroupState.RESOLVED, actor="olga", reason="fixed in 7.3")
    assert groups.get(name).state == "resolved"
    assert groups.get(name).open == 1, "its letters are as they were"

    die("m-2", at=datetime.now(UTC) + timedelta(seconds=1))
    assert groups.get(name).state == "regressed"

    assert groups.set_state(name, None, actor="olga").state == "new"


def test_a_failed_replay_makes_it_regressed_too(store: Store) -> None:
    name = die("m-1")
    groups.set_state(name, GroupState.RESOLVED, actor="olga")
    later = datetime.now(UTC) + timedelta(seconds=1)
    store[LETTERS].update_one({"messageId": "m-1"}, {"$set": {"lastFailedAt": later}})

    assert groups.get(name).state == "regressed"


def test_a_group_without_open_letters_is_resolved(store: Store) -> None:
    name = die("m-1")
    dead_letters.resolve_by_hand("m-1", actor="olga")

    assert groups.get(name).state == "resolved"
    assert groups.top(5) == []


def test_ignoring_ends_after_a_number_of_failures(store: Store) -> None:
    name = die("m-1", "m-2", "m-3")
    groups.set_state(name, GroupState.IGNORED, actor="olga", until_count=2)
    later = datetime.now(UTC) + timedelta(seconds=1)
    assert groups.get(name).state == "ignored"

    die("m-4", at=later)
    assert groups.get(name).state == "ignored"
    die("m-5", at=later)
    assert groups.get(name).state == "new"


def test_ignoring_that_ended_by_rate_does_not_start_again_a_day_later(store: Store) -> None:
    name = die("m-1", "m-2")
    groups.set_state(name, GroupState.IGNORED, actor="olga", until_per_hour=1)
    store[GROUPS].update_one({"_id": name}, {"$set": {"said.at": datetime.now(UTC) - timedelta(days=2)}})
    assert groups.get(name).state == "new"

    figures.renew()
    store[LETTERS].update_many({}, {"$set": {"createdAt": datetime.now(UTC) - timedelta(days=2)}})

    group = groups.get(name)
    assert sum(group.trend) == 0
    assert group.state != "ignored"
    assert group.said is not None
    assert group.said.ended == "rate"
    assert group.history[-1]["what"] == "ignoring ended"


def test_an_end_of_ignoring_does_not_undo_a_newer_state(store: Store) -> None:
    name = die("m-1")
    first = groups.set_state(name, GroupState.IGNORED, actor="olga", until_per_hour=1).said
    assert first is not None
    groups.set_state(name, GroupState.IGNORED, actor="mira", until=datetime.now(UTC) + HOUR)

    groups_store().end_ignoring(name, first, "rate", datetime.now(UTC))

    assert groups.get(name).state == "ignored"


def test_notes_and_states_are_stored_with_user_and_reason(store: Store) -> None:
    name = die("m-1")
    groups.set_note(name, actor="mira", text="asked the orders team")
    groups.set_note(name, actor="anna", text="they answered")
    groups.set_state(name, GroupState.IGNORED, actor="olga", reason="ships Wednesday")

    group = groups.get(name)

    assert group.note is not None
    assert (group.note.text, group.note.by) == ("they answered", "anna")
    assert [(entry["who"], entry["what"], entry["why"]) for entry in group.history] == [
        ("mira", "note", "asked the orders team"),
        ("anna", "note", "they answered"),
        ("olga", "ignored", "ships Wednesday"),
    ]


def test_a_state_survives_the_letters(store: Store) -> None:
    name = die("m-1")
    groups.set_state(name, GroupState.RESOLVED, actor="olga")
    store[LETTERS].delete_many({})
    with pytest.raises(GroupNotFound):
        groups.get(name)

    die("m-2", at=datetime.now(UTC) + timedelta(seconds=1))

    assert groups.get(name).state == "regressed"


def test_a_group_stays_as_old_as_it_is_when_its_oldest_letters_are_deleted(store: Store) -> None:
    name = die("m-1")
    long_ago = datetime.now(UTC) - timedelta(days=40)
    store[LETTERS].update_one({}, {"$set": {"createdAt": long_ago}})
    assert groups.get(name).state == "ongoing"
    store[LETTERS].delete_many({})
    die("m-2")

    assert groups.get(name).state == "ongoing"


@pytest.mark.parametrize("name", ["0" * 16, "nothing", "\0", "$gt", "f" * 500])
def test_a_group_that_is_not_there(store: Store, name: str) -> None:
    with pytest.raises(GroupNotFound):
        groups.get(name)
    with pytest.raises(GroupNotFound):
        groups.set_note(name, actor="olga", text="x")
    with pytest.raises(GroupNotFound):
        groups.set_state(name, GroupState.RESOLVED, actor="olga")
    assert store[GROUPS].count_documents({}) == 0


def test_a_group_cannot_be_set_to_new(store: Store) -> None:
    name = die("m-1")

    with pytest.raises(ValueError, match="new"):
        groups.set_state(name, GroupState.NEW, actor="olga")


def test_a_group_newer_than_the_snapshot_is_found(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    die("m-1")
    figures.renew()
    monkeypatch.setattr(figures, "MAX_INLINE_LETTERS", 0)
    name = die("m-2", reason="no stock left")

    assert [group.fingerprint for group in groups.page().groups] != [name]
    assert groups.get(name).count == 1
    assert groups.set_note(name, actor="olga", text="seen").note is not None


def test_groups_without_history_are_deleted_when_there_are_too_many(store: Store) -> None:
    names = [die(f"m-{word}", reason=f"{word} is gone") for word in ("apple", "pear", "plum")]
    groups.page()
    groups.set_note(names[0], actor="olga", text="keep")

    assert groups_store().delete_unused([names[1]], maximum=10) == 0
    assert groups_store().delete_unused([names[1]], maximum=2) == 1
    assert {document["_id"] for document in store[GROUPS].find()} == set(names[:2])


# --- lists ---


@pytest.fixture
def orchard(store: Store) -> dict[str, str]:
    """Five groups, named by a word of their message."""
    now = datetime.now(UTC)
    found: dict[str, str] = {}
    for n, word in enumerate(("apple", "pear", "plum", "cherry", "quince")):
        letters = [
            a_document(
                f"{word}-{m}",
                death=a_death(
                    f"{word}-{m}",
                    error_reason=f"{word} is gone",
                    type=("order.created", "mail.send")[n % 2],
                    error_type=("TIMEOUT_ERROR", "NOT_FOUND_ERROR")[n % 2],
                    error_kind=("transient", "permanent")[n % 2],
                    died_at=now - n * HOUR,
                ),
                status="dlq_failed",
                createdAt=now - (10 - n) * timedelta(days=1),
            )
            for m in range((3, 5, 1, 4, 4)[n])
        ]
        store[LETTERS].insert_many(letters)
        found[word] = letters[0]["fingerprint"]
    dead_letters.discard("cherry-0", actor="olga")
    return found


def words(page: GroupPage) -> list[str]:
    return [group.message.split()[0] for group in page.groups]


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("-open", "pear quince apple cherry plum"),
        ("open", "plum apple cherry quince pear"),
        ("-count", "pear cherry quince apple plum"),
        ("-lastSeen", "apple pear plum cherry quince"),
        ("lastSeen", "quince cherry plum pear apple"),
        ("firstSeen", "apple pear plum cherry quince"),
        ("-firstSeen", "quince cherry plum pear apple"),
    ],
)
def test_the_order_of_groups(orchard: dict[str, str], sort: str, order: str) -> None:
    found = groups.page(sort=sort).groups
    if sort.removeprefix("-") in ("open", "count"):
        # Groups that are alike come in the order of their fingerprints, which says nothing to a person.
        key = sort.removeprefix("-")
        values = [getattr(group, key) for group in found]
        assert values == sorted(values, reverse=sort.startswith("-"))
        assert {group.message.split()[0] for group in found} == set(order.split())
    else:
        assert words(groups.page(sort=sort)) == order.split()


@pytest.mark.parametrize("sort", groups.SORTS)
def test_pages_have_each_group_once(orchard: dict[str, str], sort: str) -> None:
    seen: list[str] = []
    cursor = None
    while True:
        page = groups.page(sort=sort, limit=2, cursor=cursor)
        seen += words(page)
        cursor = page.next_cursor
        if cursor is None:
            break

    assert seen == words(groups.page(sort=sort))
    assert len(set(seen)) == page.total == 5


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"errorType": "TIMEOUT_ERROR"}, {"apple", "plum", "quince"}),
        ({"errorKind": "permanent"}, {"pear", "cherry"}),
        ({"type": ["mail.send", "other"]}, {"pear", "cherry"}),
        ({"search": "PLUM gone"}, {"plum"}),
        ({"search": "timeout_error"}, {"apple", "plum", "quince"}),
        ({"search": "banana"}, set()),
    ],
)
def test_filters_of_groups(orchard: dict[str, str], query: dict[str, Any], expected: set[str]) -> None:
    assert set(words(groups.page(LetterCriteria.parse(query)))) == expected


def test_groups_by_when_they_last_failed(orchard: dict[str, str]) -> None:
    middle = datetime.now(UTC) - 1.5 * HOUR

    assert set(words(groups.page(LetterCriteria(failed_from=middle)))) == {"apple", "pear"}
    assert set(words(groups.page(LetterCriteria(failed_to=middle)))) == {"plum", "cherry", "quince"}
    assert words(groups.page(LetterCriteria(fingerprints=(orchard["plum"],)))) == ["plum"]


def test_groups_by_state_and_how_many_are_in_each(orchard: dict[str, str]) -> None:
    groups.set_state(orchard["apple"], GroupState.IGNORED, actor="olga")
    groups.set_state(orchard["pear"], GroupState.RESOLVED, actor="olga")

    page = groups.page(states=(GroupState.IGNORED, GroupState.RESOLVED))

    assert set(words(page)) == {"apple", "pear"}
    assert page.total == 2
    assert {state: n for state, n in page.states.items() if n} == {"ignored": 1, "resolved": 1, "ongoing": 3}
    assert {group.message.split()[0] for group in groups.top(10)} == {"plum", "cherry", "quince"}
    assert groups.top(1)[0].open == 4


@pytest.mark.parametrize(
    ("params", "fields"),
    [
        ({"state": ["odd"]}, ["state"]),
        ({"sort": ["-open", "count"]}, ["sort"]),
        ({"sort": ["total"]}, ["sort"]),
        ({"limit": ["0"]}, ["limit"]),
        ({"limit": ["101"]}, ["limit"]),
        ({"cursor": ["eA"]}, ["cursor"]),
        ({"cursor": ["x" * 300]}, ["cursor"]),
        ({"cursor": ["WyItY291bnQiLDMsIjAxMjM0NTY3ODlhYmNkZWYiXQ"], "sort": ["-open"]}, ["sort"]),
        ({"errorKind": ["low"]}, ["errorKind"]),
        ({"source": ["shop"], "tag": ["eu"]}, ["source", "tag"]),
    ],
)
def test_an_invalid_query_is_rejected_with_its_field(params: dict[str, list[str]], fields: list[str]) -> None:
    with pytest.raises(CriteriaInvalid) as caught:
        GroupQuery.parse(params)

    assert [error["field"] for error in caught.value.errors] == fields


# --- REST ---


@pytest.fixture
def client(db: None, redis_client: Any) -> Client:
    return with_key("read", "replay")


@pytest.mark.redis
@pytest.mark.django_db
def test_groups_over_rest(store: Store, client: Client) -> None:
    name = die("m-1", "m-2", reason="token=abc123 was refused")

    answer = client.get("/api/dlq/groups", {"state": "new", "sort": "-lastSeen"}).json()

    (shown,) = answer["data"]
    assert answer["pagination"] == {"limit": 20, "total": 1, "totalIsCapped": False, "nextCursor": None}
    assert answer["states"]["new"] == 1
    assert (shown["fingerprint"], shown["open"], shown["state"]) == (name, 2, "new")
    assert "abc123" not in str(shown), "a secret in a message is hidden"
    assert "history" not in shown
    assert client.get(f"/api/dlq/groups/{name}").json()["data"]["history"] == []
    assert client.get("/api/dlq/groups?tag=x").json()["code"] == "invalid_filter"
    assert client.get("/api/dlq/groups/none").json()["code"] == "group_not_found"


@pytest.mark.redis
@pytest.mark.django_db
def test_states_and_notes_over_rest(store: Store, client: Client) -> None:
    name = die("m-1")

    def post(what: str, body: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = client.post(
            f"/api/dlq/groups/{name}/{what}", body, content_type="application/json"
        ).json()
        return found

    until = (datetime.now(UTC) + HOUR).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    ignored = post("ignore", {"until": until, "untilPerHour": 50, "untilCount": 20, "reason": "ships Wednesday"})[
        "data"
    ]
    assert ignored["state"] == "ignored"
    assert {key: ignored["said"][key] for key in ("by", "reason", "until", "untilPerHour", "untilCount", "ended")} == {
        "by": "key:carol",
        "reason": "ships Wednesday",
        "until": until,
        "untilPerHour": 50,
        "untilCount": 20,
        "ended": None,
    }
    assert post("note", {"text": "asked"})["data"]["note"]["text"] == "asked"
    assert post("reopen", {})["data"]["said"] is None
    assert post("resolve", {"reason": "fixed"})["data"]["state"] == "resolved"
    letter = repository.letters().find("m-1")
    assert letter is not None
    assert letter.status != "dlq_resolved"


@pytest.mark.redis
@pytest.mark.django_db
@pytest.mark.parametrize(
    ("what", "body", "field"),
    [
        ("ignore", {"until": "2020-01-01T00:00:00Z"}, "until"),
        ("ignore", {"until": "soon"}, "until"),
        ("ignore", {"untilCount": 0}, "untilCount"),
        ("ignore", {"untilPerHour": True}, "untilPerHour"),
        ("ignore", {"untilPerHour": 1e30}, "untilPerHour"),
        ("resolve", {"until": "2099-01-01T00:00:00Z"}, "until"),
        ("note", {}, "text"),
        ("note", {"text": "  "}, "text"),
    ],
)
def test_an_invalid_state_or_note_is_rejected(
    store: Store, client: Client, what: str, body: dict[str, Any], field: str
) -> None:
    name = die("m-1")

    answer = client.post(f"/api/dlq/groups/{name}/{what}", body, content_type="application/json")

    assert answer.status_code == 400
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert groups.get(name).history == ()


@pytest.mark.redis
@pytest.mark.django_db
def test_states_set_by_staff_are_in_the_audit_log(store: Store, redis_client: Any) -> None:
    name = die("m-1")

    staff("vic", "replay").post(f"/api/dlq/groups/{name}/resolve", {"reason": "fixed"}, content_type="application/json")

    entry = audited().get()
    assert (entry.object_id, entry.said) == (name, "resolve group: fixed")
    assert entry.name == "payments-api did not answer"
