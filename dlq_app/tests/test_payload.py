"""Payloads for people: nothing is lost on the way to the page and back, and secrets stay where they are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_app.masking import MASK, MaskingPolicy
from dlq_app.payload import MAX_DEPTH, NotJson, NotRestorable, masked, parse, restored, written

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
