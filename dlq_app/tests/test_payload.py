"""Payloads for people: nothing is lost on the way to the page and back, and secrets stay where they are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_app.domain.masking import MASK, MaskingPolicy, masked
from dlq_app.domain.payload import MAX_DEPTH, NotJson, parse, written
from dlq_app.domain.payload_edits import NotRestorable, restored

POLICY = MaskingPolicy()
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(JSON, st.sampled_from([None, 2]))
def test_what_is_written_means_what_was_read(value: Any, indent: int | None) -> None:
    text = json.dumps(value)

    assert json.loads(written(parse(text), indent=indent)) == value


@pytest.mark.parametrize(
    "text",
    [
        '{"amount": 1.10, "big": 123456789012345678901234567890, "tiny": 1E-400}',
        '{"twice": 1, "twice": 2}',
        '["\\u202e", "é😀"]',
    ],
)
def test_numbers_keep_their_text_and_repeated_keys_stay(text: str) -> None:
    again = written(parse(text))

    assert parse(again) == parse(text)
    assert again == text.replace("\\u202e", "\u202e")


def test_it_is_laid_out_for_reading() -> None:
    assert written(parse('{"a":[1,{}],"b":null}'), indent=2) == ('{\n  "a": [\n    1,\n    {}\n  ],\n  "b": null\n}')


@given(JSON)
def test_an_untouched_masked_text_restores_to_the_original(value: Any) -> None:
    original = parse(json.dumps({"token": "t-1", "card": {"cvc": 123, "list": [value]}, "value": value}))

    shown = written(masked(original, POLICY), indent=2)

    assert "t-1" not in shown
    assert restored(parse(shown), original, POLICY) == original


def test_secrets_survive_an_edit_around_them() -> None:
    original = parse('{"route": "eu-1", "card": {"token": "t-1"}, "auth": {"user": "a"}}')
    edited = parse(f'{{"card": {{"token": "{MASK}"}}, "route": "eu-2", "auth": "{MASK}"}}')

    assert written(restored(edited, original, POLICY)) == (
        '{"card": {"token": "t-1"}, "route": "eu-2", "auth": {"user": "a"}}'
    )


def test_a_new_secret_replaces_the_hidden_one() -> None:
    assert written(restored(parse('{"token": "t-2"}'), parse('{"token": "t-1"}'), POLICY)) == '{"token": "t-2"}'


@pytest.mark.parametrize("original", ['{"card": {}}', '{"card": {"token": null}}', "[]"])
def test_a_mask_without_a_secret_behind_it_is_refused_by_name(original: str) -> None:
    with pytest.raises(NotRestorable) as caught:
        restored(parse(f'{{"card": {{"token": "{MASK}"}}}}'), parse(original), POLICY)

    assert caught.value.path == "payload.card.token"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1,\n  b}', "line 2"),
        ("NaN", "NaN"),
        ("", "line 1"),
        ("[" * 100_000, "nested too deep"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested too deep"),
    ],
)
def test_what_is_no_json_says_where(text: str, why: str) -> None:
    with pytest.raises(NotJson, match=why):
        parse(text)


USERS = '{"route": "eu", "users": [{"name": "ann", "pin": 1, "n": 1.0}, {"name": "cy", "n": 2}]}'
_ANN, _CY = f'{{"name": "ann", "pin": "{MASK}", "n": 1.0}}', '{"name": "cy", "n": 2}'


def restored_users(*edited: str) -> Any:
    text = f'{{"route": "us", "users": [{", ".join(edited)}]}}'
    return json.loads(written(restored(parse(text), parse(USERS), POLICY)))


@pytest.mark.parametrize(
    "ann", [_ANN, f'{{"n": 1, "pin": "{MASK}", "name": "ann"}}'], ids=["as it was shown", "written by another client"]
)
def test_edits_outside_a_list_keep_the_secrets_in_it(ann: str) -> None:
    assert restored_users(ann, _CY) == {**json.loads(USERS), "route": "us"}


def test_a_list_without_the_mask_is_taken_as_it_is() -> None:
    assert restored_users(_CY)["users"] == [{"name": "cy", "n": 2}]
    assert restored_users(_ANN.replace(f'"{MASK}"', "7"), _CY)["users"][0]["pin"] == 7


@pytest.mark.parametrize(
    "edited",
    [[_CY, _ANN], [_ANN], [_ANN, _ANN, _CY], [_ANN.replace("1.0", "3"), _CY], [_ANN, _CY, f'{{"pin": "{MASK}"}}']],
    ids=["moved", "removed", "copied", "changed", "made up"],
)
def test_an_edit_inside_a_list_that_holds_a_secret_is_refused(edited: list[str]) -> None:
    """Elements move, so no place in a list is certain."""
    with pytest.raises(NotRestorable, match=r"payload\.users holds hidden values.*edit outside of it"):
        restored_users(*edited)


@pytest.mark.parametrize("edited", [f'{{"token": "{MASK}"}}', f'{{"token": "{MASK}", "token": "{MASK}", "n": 1}}'])
def test_an_object_that_repeats_keys_is_kept_as_it_was_or_refused(edited: str) -> None:
    original = parse('{"token": "a", "token": "b"}')

    assert restored(parse(f'{{"token": "{MASK}", "token": "{MASK}"}}'), original, POLICY) == original
    with pytest.raises(NotRestorable, match="payload holds hidden values"):
        restored(parse(edited), original, POLICY)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=6), st.data())
def test_no_secret_ever_changes_its_owner(users: list[tuple[int, int]], data: Any) -> None:
    """Whatever is moved, removed or changed: an element that is refused or restored, never given another's secret."""
    original = [{"id": n, "group": group, "pin": 100 + n, "about": about} for n, (group, about) in enumerate(users)]
    kept = data.draw(st.permutations(original))[: data.draw(st.integers(0, len(original)))]
    changed = [{**one, "pin": MASK, "about": data.draw(st.integers(0, 4))} for one in kept]

    try:
        found = restored(parse(json.dumps(changed)), parse(json.dumps(original)), POLICY)
    except NotRestorable:
        return
    assert all(one["pin"] == 100 + one["id"] for one in json.loads(written(found)))


_HOST = '{"url": "amqp://ann:s3cret@mq/", "n": 1.10, "body": "{\\"pin\\":1}", '
_HOST += '"env": [{"name": "DB_PASSWORD", "value": "s3cret"}]}'


def test_strings_with_hidden_parts_and_named_values_are_put_back() -> None:
    original = parse(_HOST)
    shown = written(masked(original, POLICY))

    assert "s3cret" not in shown
    assert restored(parse(shown), original, POLICY) == original
    assert written(restored(parse(shown.replace("1.10", "2")), original, POLICY)) == _HOST.replace("1.10", "2")
    assert "amqp://new" in written(restored(parse(shown.replace(f"amqp://ann:{MASK}", "amqp://new")), original, POLICY))


@pytest.mark.parametrize(
    ("was", "now", "path"),
    [
        ("@mq", "@evil", "payload.url"),
        ('"url"', '"note"', "payload.note"),
        ("DB_PASSWORD", "NOTE", "payload"),
        (f'"value": "{MASK}"', f'"value": "x{MASK}"', "payload.env"),
    ],
    ids=["text around it", "another key", "another name", "inside a new text"],
)
def test_a_hidden_part_is_never_put_back_where_it_would_be_shown(was: str, now: str, path: str) -> None:
    original = parse(_HOST)
    shown = written(masked(original, POLICY))
    assert was in shown

    with pytest.raises(NotRestorable) as caught:
        restored(parse(shown.replace(was, now)), original, POLICY)

    assert caught.value.path.startswith(path)
