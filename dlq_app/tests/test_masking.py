"""What is hidden, and what is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from dlq_app import conf
from dlq_app.domain.masking import MASK, MaskingPolicy, mask, mask_json, mask_text
from wire.errors import PolicyError

POLICY = MaskingPolicy()

JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.text(max_size=10),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize(
    "key",
    ["password", "Password", "userPassword", "api_key", "X-Api-Key", "apiKey", "access_token", "AUTHORIZATION", "cvc"],
)
def test_it_hides_what_is_secret_by_its_name(key: str) -> None:
    assert mask({key: "hunter2"}, POLICY) == {key: MASK}
    assert mask({"deep": [{key: {"even": "objects"}}]}, POLICY) == {"deep": [{key: MASK}]}


@pytest.mark.parametrize("key", ["orderId", "author", "passenger", "description", "pinned", "secretary"[:4]])
def test_it_shows_the_rest(key: str) -> None:
    assert mask({key: "value"}, POLICY) == {key: "value"}


@given(JSON)
def test_what_has_no_secret_is_unchanged(value: Any) -> None:
    assert mask(value, MaskingPolicy(contains=(), exact=frozenset())) == value


@given(JSON)
def test_masking_twice_is_masking_once(value: Any) -> None:
    once = mask(value, POLICY)

    assert mask(once, POLICY) == once


def test_nothing_deep_is_shown_by_exhaustion() -> None:
    value: Any = {"password": "hunter2"}
    for _ in range(200):
        value = [value]

    assert "hunter2" not in json.dumps(mask(value, POLICY))


@pytest.mark.parametrize(
    "text",
    [
        "login failed: password=hunter2 for ann",
        "password: hunter2",
        'body {"password": "hunter2 and more"}',
        "{'api_key': 'hunter2'}",
        "Authorization: Bearer hunter2",
        "headers Api-Key=hunter2&x=1",
        "https://example.org/?access_token=hunter2",
    ],
)
def test_it_hides_secrets_in_texts(text: str) -> None:
    masked = mask_text(text, POLICY)

    assert "hunter2" not in masked
    assert MASK in masked


def test_texts_without_secrets_are_unchanged() -> None:
    text = 'File "/srv/app/tokens.py", line 3, in check\n    raise PasswordTooShort()'

    assert mask_text(text, POLICY) == text


def test_json_without_secrets_is_shown_byte_for_byte() -> None:
    assert mask_json('{ "a" : 1.50 , "a": 2 }', POLICY) == '{ "a" : 1.50 , "a": 2 }'
    assert json.loads(mask_json('{"token": "x", "a": 1}', POLICY)) == {"token": MASK, "a": 1}
    assert mask_json("no json, password=x", POLICY) == f"no json, password={MASK}"


@pytest.mark.parametrize(
    "raw", [{"contains": "token"}, {"contains": ["Api-Key"]}, {"exact": [1]}, {"exact": ["x"]}, {"names": []}]
)
def test_a_policy_that_is_wrong_says_so(raw: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match=r"masking\.toml: .*(must be|known are)"):
        MaskingPolicy.parse(raw)


def test_the_shipped_policy_is_valid() -> None:
    assert conf.masking_policy().is_secret("X-Hub-Signature-256")
    assert not conf.masking_policy().is_secret("orderId")


def test_many_names_of_keys_are_not_remembered_for_ever() -> None:
    policy = MaskingPolicy()

    assert not any(policy.is_secret(f"field-{n}") for n in range(10_000))

    assert policy.is_secret("apiKey")
    assert len(policy._known) <= 2000


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"password": "hunter2", "password": ""}', f'{{"password": "{MASK}", "password": ""}}'),
        ('[{"token": "a", "token": null, "n": 1}]', f'[{{"token": "{MASK}", "token": null, "n": 1}}]'),
        ('{"n": 1.10, "m": -0, "e": 1E5, "pin": 1}', f'{{"n": 1.10, "m": -0, "e": 1E5, "pin": "{MASK}"}}'),
        ('{"n":1.10,"n":2}', '{"n":1.10,"n":2}'),
    ],
)
def test_beside_a_secret_nothing_is_lost_and_no_repetition_hides_one(text: str, shown: str) -> None:
    assert mask_json(text, MaskingPolicy()) == shown


def test_a_secret_in_too_deep_a_payload_is_hidden_too() -> None:
    deep = "[" * 100 + '{"token": "tok_1"}' + "]" * 100

    assert "tok_1" not in mask_json(deep, MaskingPolicy())
    assert "tok_1" not in mask_json(deep.replace('"tok_1"', '"tok_1", "token": ""'), MaskingPolicy())
