"""Groups in the console: the list of cards, the page of one, and what people say about it."""

from __future__ import annotations

import html as html_module
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from pytest_django import Settings

from dlq_app.admin.groups import page as group_page
from dlq_app.admin.groups import trend as group_trend
from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import QueryTooSlow, StoreUnavailable
from dlq_app.domain.group_states import GroupState
from dlq_app.domain.replay_batch import BatchOrder
from dlq_app.services import batches, dead_letters, figures, groups
from dlq_app.services.groups import Group
from dlq_app.store import repository
from dlq_app.testing import NOON, MemoryIntake, a_death, a_settlement
from dlqsite import tabs
from dlqsite.tests.people import audited, member, staff

pytestmark = [
    pytest.mark.django_db, pytest.mark.mongo, pytest.mark.redis,
    pytest.mark.usefixtures("letters", "intake", "redis_client"),
]  # fmt: skip

LIST = "/admin/dlq_app/lettergroup/"
HOSTILE = "<script>alert(1)</script>\u202e gone"
HOUR = timedelta(hours=1)


def die(*ids: str, reason: str = "payments-api did not answer within 10 s", **changes: Any) -> None:
    now = datetime.now(UTC)
    dead_letters.record_outcomes(
        [a_death(one, error_reason=reason, died_at=now, queued_at=now, **changes) for one in ids], []
    )


def only() -> Group:
    (group,) = groups.page().groups
    return group


def text(answer: Any, status: int = 200) -> str:
    assert answer.status_code == status, answer
    return str(answer.content.decode())


def only_with(words: str) -> str:
    """The fingerprint of the only group with these words."""
    (group,) = groups.page(LetterCriteria(search=words)).groups
    return group.fingerprint


def cards(html: str) -> list[str]:
    """What stands in each card, without its markup."""
    return [
        " ".join(html_module.unescape(re.sub(r"<[^>]+>", " ", card)).split())
        for card in re.findall(r'<li class="group .*?</li>', html, re.DOTALL)
    ]


def lines() -> list[tuple[str, str]]:
    found = audited().filter(kind="lettergroup").order_by("id")
    return [(line.object_id or "", line.said) for line in found]


# --- the list ---


def test_a_card_tells_what_a_group_is(operator: Client) -> None:
    die("m-1", "m-2", "m-3")
    dead_letters.resolve_by_hand("m-3", actor="olga", reason="done")
    group = groups.set_note(only().fingerprint, actor="user:mira", text="Asked the bank.")

    html = text(operator.get(LIST))

    (card,) = cards(html)
    for words in (
        "New TIMEOUT_ERROR transient",
        "payments-api did not answer within # s",
        "payments/gateway.py:88 capture()",
        "transient payment.capture 3",
        "mira : Asked the bank.",
        "3 letters",
        "2 open of 3",
        "Last replay never",
    ):
        assert words in card
    assert f'href="/admin/dlq_app/deadletter/?fingerprint={group.fingerprint}"' in html
    assert f'href="/admin/dlq_app/replaybatch/add/?fingerprint={group.fingerprint}"' in html
    assert f'href="{LIST}{group.fingerprint}/change/"' in html


def test_worst_first_by_state_then_by_open_letters(operator: Client) -> None:
    die("r-1", reason="came back")
    regressed = only().fingerprint
    groups.set_state(regressed, GroupState.RESOLVED, actor="olga")
    die("r-2", reason="came back")
    die("n-1", reason="fresh")
    die("o-1", "o-2", "o-3", reason="more of it")
    die("i-1", "i-2", "i-3", "i-4", reason="nobody minds")
    groups.set_state(only_with("nobody minds"), GroupState.IGNORED, actor="olga")

    shown = cards(text(operator.get(f"{LIST}?state=all")))

    assert [card.split()[0] for card in shown] == ["Regressed", "New", "New", "Ignored"]
    assert ["more of it" in shown[1], "fresh" in shown[2]] == [True, True]
    assert len(cards(text(operator.get(LIST)))) == 3
    (only_ignored,) = cards(text(operator.get(f"{LIST}?state=ignored")))
    assert "Ignored until a user reopens it" in only_ignored


def test_counts_of_the_states_stand_on_the_chips(operator: Client) -> None:
    die("a-1", reason="one")
    die("b-1", reason="two")
    groups.set_state(only_with("two"), GroupState.RESOLVED, actor="olga")

    html = text(operator.get(LIST))

    counts = dict(re.findall(r'<b id="groups-(\w+)">([\d,]+)</b>', html))
    assert counts == {"open": "1", "new": "1", "regressed": "0", "ongoing": "0", "ignored": "0", "resolved": "1"}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("errorType=VALIDATION_ERROR", ["vat"]),
        ("errorKind=transient", ["bank"]),
        ("type=order.created", ["vat"]),
        ("search=bank", ["bank"]),
        ("search=nothing+such", []),
        ("age=1h", ["vat", "bank"]),
        ("age=7d-", []),
        ("errorType=&type=", ["vat", "bank"]),
    ],
)
def test_filters_of_letters_narrow_groups(operator: Client, query: str, found: Sequence[str]) -> None:
    die("a-1", reason="bank away")
    die("b-1", "b-2", reason="vat wrong", error_type="VALIDATION_ERROR", error_kind="permanent", type="order.created")

    shown = cards(text(operator.get(f"{LIST}?{query}")))

    assert [next(word for word in ("vat", "bank") if f"{word} " in card) for card in shown] == list(found)


def test_an_active_filter_is_a_chip_that_takes_it_away(operator: Client) -> None:
    die("a-1", reason="bank away")

    html = text(operator.get(f"{LIST}?errorType=VALIDATION_ERROR&state=all&sort=-open"))

    assert "No group matches these filters" in html
    assert 'href="?state=all&amp;sort=-open"' in html


@pytest.mark.parametrize("query", ["state=lost", "sort=drop", "errorType[$ne]=x", "cursor=zz", "age=soon", "x=1"])
def test_an_address_that_makes_no_sense_leads_to_the_plain_list(operator: Client, query: str) -> None:
    answer = operator.get(f"{LIST}?{query}")

    assert answer.headers["Location"] == f"{LIST}?e=1"
    assert "Unknown filter or sort order" in text(operator.get(f"{LIST}?e=1"))


def test_pages_go_on_by_cursor_and_show_each_group_once(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlq_app.admin.groups.changelist._PER_PAGE", 2)
    for name in ("alpha", "beta", "gamma", "delta", "epsilon"):
        die(f"m-{name}", reason=f"{name} broke")
    url, seen = LIST, []
    for _ in range(3):
        html = text(operator.get(url))
        seen += cards(html)
        onward = re.search(r'href="(\?[^"]*)">Next page', html)
        url = LIST + html_module.unescape(onward[1]) if onward else ""

    assert url == ""
    assert len(seen) == 5
    assert len({card.split(" broke")[0] for card in seen}) == 5
    assert "First page" in html


def test_without_letters_it_says_so(operator: Client) -> None:
    assert "No groups: there are no dead letters" in text(operator.get(LIST))


def test_when_none_is_open_the_others_are_a_step_away(operator: Client) -> None:
    die("m-1")
    groups.set_state(only().fingerprint, GroupState.RESOLVED, actor="olga")

    html = text(operator.get(LIST))

    assert "No group is open" in html
    assert 'href="?state=all"' in html


def test_figures_of_an_older_snapshot_say_as_of_when(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    die("m-1")
    counted = figures.snapshot()
    monkeypatch.setattr(figures, "snapshot", lambda: replace(counted, as_of=counted.as_of - timedelta(seconds=40)))

    assert "counted at" in text(operator.get(LIST))
    monkeypatch.undo()
    assert "counted at" not in text(operator.get(LIST))


# --- live ---


@pytest.mark.parametrize("page", ["list", "group"])
def test_a_live_part_is_sent_again_only_when_something_changed(operator: Client, page: str) -> None:
    die("m-1")
    fingerprint = only().fingerprint
    url = LIST if page == "list" else f"{LIST}{fingerprint}/live/"
    ask = {"HX-Request": "true"}
    first = operator.get(url, headers=ask)
    tag = first.headers["ETag"]
    assert f'data-tag="{tag[1:-1]}"' in text(first)
    assert "<html" not in text(first)
    assert operator.get(url, headers={**ask, "If-None-Match": tag}).status_code == 304

    groups.set_note(fingerprint, actor="olga", text="look")
    again = operator.get(url, headers={**ask, "If-None-Match": tag})

    assert again.status_code == 200
    assert again.headers["ETag"] != tag
    assert 'hx-swap-oob="true"' in text(again)


def test_the_page_holds_the_tag_that_its_live_part_has(operator: Client) -> None:
    die("m-1")
    url = f"{LIST}{only().fingerprint}/"

    html = text(operator.get(f"{url}change/"))

    tag = re.search(r'data-tag="(\w+)"', html)
    assert tag
    answer = operator.get(f"{url}live/", headers={"HX-Request": "true", "If-None-Match": f'"{tag[1]}"'})
    assert answer.status_code == 304


# --- one group ---


def test_the_page_of_a_group_tells_all(operator: Client) -> None:
    die("m-1", "m-2")
    group = only()

    html = text(operator.get(f"{LIST}{group.fingerprint}/change/"))

    for words in (
        "First seen within the last 24 hours. 2 of its 2 letters are open.",
        ">m-1</bdi>",
        ">m-2</bdi>",
        "New letters by hour",
        "payments-api did not answer within 10 s",
        f"--fingerprint {group.fingerprint}",
        f"/api/dlq/groups/{group.fingerprint}/ignore",
        "No changes yet.",
    ):
        assert words in html


def test_every_request_to_copy_is_understood(operator: Client) -> None:
    die("m-1")
    group = only()
    api = staff("api", "replay")

    for name, command in group_page.equivalent_commands(group, "http://here"):
        if name.startswith("manage"):
            continue
        address = command.split()[-1].removeprefix("http://here")
        command = command.replace("""'"${REASON:?set it to the reason}"'""", "as asked")
        body = re.search(r"-d '(.*)'", command)
        answer = (
            api.post(address, body[1], content_type="application/json", headers={"Host": "testserver"})
            if body
            else api.get(address)
        )
        assert answer.status_code < 300, (name, answer.content)


@pytest.mark.parametrize("ref", ["0" * 16, "none", "../x", "%3Cscript%3E"])
def test_an_unknown_group_is_not_found(operator: Client, ref: str) -> None:
    for place in ("change", "history"):
        answer = operator.get(f"{LIST}{ref}/{place}/")
        assert answer.status_code == 404
        assert b"<script>" not in answer.content


def test_nothing_is_said_about_an_unknown_group(operator: Client) -> None:
    for place in ("resolve", "ignore", "reopen", "note"):
        answer = operator.post(f"{LIST}{'0' * 16}/{place}/", {"reason": "x", "text": "x"})
        assert answer.status_code == 404
    assert lines() == []


# --- what people say ---


def test_resolving_asks_for_a_reason_and_is_written_down_once(operator: Client) -> None:
    die("m-1")
    url = f"{LIST}{only().fingerprint}/resolve/"

    assert "Resolve this group?" in text(operator.get(url))
    assert "it is kept in the history" in text(operator.post(url, {"reason": " "}), 400)
    assert only().said is None
    assert lines() == []

    answer = operator.post(url, {"reason": "bank is back"})

    group = only()
    assert answer.headers["Location"] == f"{LIST}{group.fingerprint}/change/"
    assert (group.state, group.said and group.said.by, group.said and group.said.reason) == (
        GroupState.RESOLVED,
        "user:operator",
        "bank is back",
    )
    assert lines() == [(group.fingerprint, "resolve group: bank is back")]
    history = text(operator.get(f"{LIST}{group.fingerprint}/history/"))
    assert "resolve group: bank is back" in history
    again = operator.post(url, {"reason": "once more"}, follow=True)
    assert "Nothing to do: It is already resolved." in text(again)
    assert len(lines()) == 1


def test_ignoring_until_whatever_comes_first(operator: Client) -> None:
    die("m-1")
    url = f"{LIST}{only().fingerprint}/ignore/"
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert re.search(r'name="until" value="\d{4}-\d\d-\d\dT\d\d:00"', text(operator.get(url)))

    operator.post(
        url,
        {"reason": "ships Wednesday", "until": f"{tomorrow:%Y-%m-%dT%H:%M}", "untilPerHour": "30", "untilCount": "20"},
    )

    said = only().said
    assert said
    assert said.until == tomorrow.replace(second=0, microsecond=0)
    assert (said.state, said.until_per_hour, said.until_count) == (GroupState.IGNORED, 30, 20)
    ((_, line),) = lines()
    assert line == f"ignore group {group_page.until_words(said)}: ships Wednesday"
    assert "until more than 30 an hour, or until 20 more died" in line


@pytest.mark.parametrize(
    ("typed", "problem"),
    [
        ({"until": "2020-01-01T00:00"}, "It must be in the future."),
        ({"until": "soon"}, "It must be an ISO 8601 instant"),
        ({"untilPerHour": "0"}, "It must be a whole number from 1"),
        ({"untilPerHour": "many"}, "It must be a whole number from 1"),
        ({"untilCount": "-3"}, "It must be a whole number from 1"),
        ({"untilCount": "9" * 30}, "It must be a whole number from 1"),
        ({"reason": "x" * 2001}, "It must be a text of at most 2000 characters"),
    ],
)
def test_an_end_that_makes_no_sense_is_refused_beside_its_field(
    operator: Client, typed: dict[str, str], problem: str
) -> None:
    die("m-1")

    html = text(operator.post(f"{LIST}{only().fingerprint}/ignore/", {"reason": "later", **typed}), 400)

    assert problem in html
    assert only().said is None
    assert lines() == []


def test_reopening_takes_back_what_was_said(operator: Client) -> None:
    die("m-1")
    fingerprint = only().fingerprint
    groups.set_state(fingerprint, GroupState.IGNORED, actor="olga", reason="later")
    assert "Stop ignoring…" in cards(text(operator.get(f"{LIST}?state=ignored")))[0]

    operator.post(f"{LIST}{fingerprint}/reopen/", {"reason": "now"})

    assert only().state is GroupState.NEW
    assert lines() == [(fingerprint, "reopen group: now")]
    html = text(operator.get(f"{LIST}{fingerprint}/change/"))
    assert "It is neither resolved nor ignored." in html
    assert "<b>Reopened</b>: <bdi>now</bdi>" in html


def test_a_note_takes_the_place_of_the_one_before(operator: Client) -> None:
    die("m-1")
    url = f"{LIST}{only().fingerprint}/note/"

    operator.post(url, {"text": "first"})
    operator.post(url, {"text": "second\r\nline"})

    group = only()
    assert group.note
    assert group.note.text == "second\nline"
    assert [line for _, line in lines()] == ["note: first", "note: second\nline"]
    assert "Enter a note." in text(operator.post(url, {"text": "  "}), 400)
    assert "At most 4000 characters." in text(operator.post(url, {"text": "x" * 4001}), 400)
    assert operator.get(url).status_code == 405


# --- who may ---


def test_a_viewer_sees_everything_locked_with_the_reason(viewer: Client) -> None:
    die("m-1")
    fingerprint = only().fingerprint

    assert "Replay Needs the operator role." in cards(text(viewer.get(LIST)))[0]
    html = text(viewer.get(f"{LIST}{fingerprint}/change/"))
    assert html.count("Needs the operator role.") >= 5
    assert f"/{fingerprint}/resolve/" not in html
    for verb in ("resolve", "ignore", "reopen", "note"):
        assert viewer.post(f"{LIST}{fingerprint}/{verb}/", {"reason": "x", "text": "x"}).status_code == 403
        assert viewer.get(f"{LIST}{fingerprint}/{verb}/").status_code in (403, 405)
    assert only().said is None
    assert only().note is None
    assert lines() == []


def test_staff_without_a_role_see_nothing() -> None:
    die("m-1")
    fingerprint = only().fingerprint
    nobody = staff("nora")

    for place in ("", f"{fingerprint}/change/", f"{fingerprint}/live/", f"{fingerprint}/history/"):
        assert nobody.get(f"{LIST}{place}").status_code == 403


def test_nothing_is_said_without_the_token_of_the_page() -> None:
    die("m-1")
    olga = Client(enforce_csrf_checks=True)
    olga.force_login(member("operator"), backend="django.contrib.auth.backends.ModelBackend")

    for verb in ("resolve", "note"):
        assert olga.post(f"{LIST}{only().fingerprint}/{verb}/", {"reason": "x", "text": "x"}).status_code == 403


def test_groups_are_neither_added_nor_deleted(operator: Client) -> None:
    die("m-1")

    assert operator.get(f"{LIST}add/").status_code == 403
    assert operator.post(f"{LIST}{only().fingerprint}/delete/", {"post": "yes"}).status_code == 403


# --- what senders wrote ---


def test_what_senders_wrote_is_text_and_secrets_are_hidden(operator: Client) -> None:
    die("m-1", reason=f"{HOSTILE} password=hunter2", error_stack=f'File "/srv/{HOSTILE}.py", line 1, in {HOSTILE}\n')
    fingerprint = only().fingerprint
    groups.set_note(fingerprint, actor=HOSTILE, text=f"{HOSTILE} password=hunter2")
    groups.set_state(fingerprint, GroupState.IGNORED, actor=HOSTILE, reason=f"{HOSTILE} password=hunter2")

    pages = [f"{LIST}?state=all", f"{LIST}{fingerprint}/change/", f"{LIST}{fingerprint}/resolve/"]
    for page in [*pages, f"{LIST}{fingerprint}/history/", f"{LIST}?search=%3Cscript%3E"]:
        html = text(operator.get(page))
        assert "<script>alert" not in html, page
        assert "\u202e" not in html, page
        assert "hunter2" not in html, page


# --- the store is away ---


@pytest.mark.parametrize("place", ["", "change/", "live/", "history/"])
def test_when_the_store_is_away_the_page_says_so(operator: Client, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    die("m-1")
    url = f"{LIST}{only().fingerprint}/{place}" if place else LIST

    def unavailable() -> None:
        raise StoreUnavailable("MongoDB does not answer.")

    monkeypatch.setattr(figures, "snapshot", unavailable)

    answer = operator.get(url)

    assert "MongoDB is not responding" in text(answer, 503)
    assert answer.headers["Retry-After"]


def test_a_real_store_that_is_away(operator: Client, settings: Settings) -> None:
    settings.MONGODB_URL = "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=50"

    assert "MongoDB is not responding" in text(operator.get(LIST), 503)
    assert operator.post(f"{LIST}{'0' * 16}/note/", {"text": "x"}).status_code == 503


def test_while_letters_are_counted_for_the_first_time(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow() -> None:
        raise QueryTooSlow("too slow")

    monkeypatch.setattr(figures, "snapshot", slow)

    assert "Groups are being counted" in text(operator.get(LIST), 503)


def test_a_breaker_on_the_way_is_named_and_unknown_ones_do_no_harm(operator: Client, intake: MemoryIntake) -> None:
    die("m-1")
    intake.destinations["payment.capture"] = ("payments-api", "bank-api")
    intake.open_types["payments-api"] = 60_000
    (card,) = cards(text(operator.get(LIST)))
    assert "payments-api is OPEN: a replay waits" in card
    assert "bank-api" not in card
    assert "a replay waits until it is closed" in text(operator.get(f"{LIST}{only().fingerprint}/change/"))

    intake.fail["before_breakers"] = StoreUnavailable("Redis does not answer.")

    assert "payments-api is OPEN" not in text(operator.get(LIST))


def test_a_replay_of_the_group_that_goes_on_is_a_step_away(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    die("m-1", "m-2")
    other = "0123456789abcdef"
    batches.start(BatchOrder.parse({"filter": {"fingerprint": other}, "name": "another"}), actor="olga")
    order = BatchOrder.parse({"filter": {"fingerprint": only().fingerprint}, "name": f"INC-7 {HOSTILE}"})
    batch = batches.start(order, actor="olga")

    for page in (LIST, f"{LIST}{only().fingerprint}/change/"):
        html = text(operator.get(page))
        assert f'href="/admin/dlq_app/replaybatch/{batch.id}/change/"><bdi>INC-7 &lt;script&gt;' in html
        assert "another" not in html

    monkeypatch.setattr(
        "dlq_app.services.batches.running", lambda limit: (_ for _ in ()).throw(StoreUnavailable("away"))
    )
    assert "INC-7" not in text(operator.get(LIST))


def test_the_page_of_a_letter_leads_to_its_group(operator: Client) -> None:
    die("m-1", "m-2")
    letter = repository.letters().find("m-1")
    assert letter

    html = text(operator.get(f"/admin/dlq_app/deadletter/{letter.id}/change/"))

    assert f'<a href="{LIST}{letter.fingerprint}/change/">1 other</a> failed the same way' in html


def test_the_tab_counts_what_somebody_should_look_at(operator: Client) -> None:
    die("m-1", reason="one")
    die("m-2", reason="two")
    die("m-3", reason="three")
    groups.set_state(only_with("three"), GroupState.IGNORED, actor="olga")

    assert tabs.COUNTERS["Groups"]() == tabs.Count(2, "open groups")
    dead_letters.discard("m-1", actor="olga", reason="x")
    dead_letters.discard("m-2", actor="olga", reason="x")
    assert tabs.COUNTERS["Groups"]() is None


# --- in words ---


def shaped(trend: Sequence[int], minutes: int = 30, **changes: Any) -> Group:
    die("m-1")
    full = (0,) * (24 - len(trend)) + tuple(trend)
    hours_from = NOON - 23 * HOUR
    return replace(only(), trend=full, trend_from=hours_from, as_of=NOON + timedelta(minutes=minutes), **changes)


@pytest.mark.parametrize(
    ("trend", "minutes", "words", "tone"),
    [
        ([], (), "no new one in 24 h", ""),
        ([9, 0, 0, 0], (), "no new one for 2 h", ""),
        ([9, 0], (), "no new one for 1 h", ""),
        ([0, 3200], [0] * 52 + [3200, 0, 0, 0, 0, 0, 0, 0], "over for 6 min", "down-ok"),
        ([0, 40], [0] * 56 + [10, 10, 10, 10], "10 a minute, rising", "up-bad"),
        ([120, 120], [4] * 60, "4 a minute, steady", ""),
        ([600, 500], [12] * 55 + [2] * 5, "2 a minute, falling", "down-ok"),
    ],
)
def test_whether_it_is_getting_worse(trend: Sequence[int], minutes: Sequence[int], words: str, tone: str) -> None:
    group = replace(shaped(trend), minutes=tuple(minutes))
    group = replace(group, as_of=group.as_of + timedelta(seconds=59))

    assert group_trend.shown_course(group) == group_trend.Course(words=words, tone=tone)


def test_the_last_hour_is_drawn_by_the_minute() -> None:
    group = replace(shaped([1]), minutes=(*[0] * 58, 30, 3))

    drawn = group_trend.minute_chart(group)

    assert [bar.count for bar in drawn.bars][-3:] == [0, 30, 3]
    assert drawn.bars[-1].since == group.as_of
    assert drawn.words == "New letters by minute, last hour: 33, up to 30 a minute"
    assert max(bar.x + bar.width for bar in drawn.bars) <= 240
    assert group_trend.minute_spark(()) == group_trend.minute_spark((0,) * 60) == ""
    assert group_trend.minute_spark(group.minutes).count("M") == 2


def test_the_chart_holds_every_hour_within_its_scale() -> None:
    drawn = group_trend.chart(shaped([0, 1, 7000]))

    assert drawn.scale == (10000, 5000, 0)
    assert [bar.count for bar in drawn.bars][-3:] == [0, 1, 7000]
    assert [bar.height for bar in drawn.bars][-3:] == [0, 1.5, 70.0]
    assert all(0 <= bar.y <= 100 for bar in drawn.bars)
    assert drawn.labels == ("13:00", "19:00", "01:00", "07:00", "13:00")


def test_a_replay_leaves_its_outcome_on_the_card(operator: Client, intake: MemoryIntake) -> None:
    die("m-1", "m-2")
    replayed: Any = dead_letters.replay("m-1", actor="olga")
    letter_epoch = next(iter(intake.records.values())).epoch
    dead_letters.record_outcomes(
        [], [a_settlement("m-1", epoch=letter_epoch, replay_id=replayed.replay_id, finished_at=datetime.now(UTC))]
    )

    (card,) = cards(text(operator.get(LIST)))

    assert "1 open of 2" in card
    assert re.search(r"Last replay [\d:]+ UTC, succeeded Replays, 24 h 1 of 1 succeeded", card)
