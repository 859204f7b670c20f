"""Strict parsing: what is kept byte for byte, and what is refused with which word."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages_app.domain import parsing
from messages_app.domain.errors import InvalidJson, MessageInvalid
from messages_app.domain.parsing import (
    ABSENT,
    MAX_DEPTH,
    MAX_INTEGER,
    MIN_INTEGER,
    decode,
    parse_envelope,
    parse_payload,
    payload_codes,
    payload_faults,
)

ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**70), max_value=2**70)
    | st.floats()
    | st.text(st.characters(codec=None, exclude_categories=[]), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def codes(text: str) -> set[str]:
    return {fault.code for fault in parse_envelope(text).faults}


@pytest.mark.parametrize(
    "payload",
    [
        '{"b":1,  "a" : [1.50, 1e2,-0]}',
        "null",
        "0",
        '"\\u00e4 \\/ ä 😀"',
        '{"same":1,"same":2}',
        "9223372036854775807",
        '{"$where":"1","a.b":{"$gt":""}}',
        '{"__proto__":{"x":1}}',
        "[ ]",
    ],
)
def test_the_payload_is_kept_as_it_was_written(payload: str) -> None:
    envelope = parse_envelope(f' {{ "type" : "demo" ,\n"payload":\t{payload} , "priority":"low"}}\n')

    assert envelope.payload_text == payload
    assert envelope.payload == json.loads(payload)
    assert envelope.fields == {"type": "demo", "priority": "low"}
    assert envelope.faults == []


@given(ANY_JSON)
def test_any_value_is_sliced_out_whole_and_judged_the_same_with_and_without_the_short_cut(value: Any) -> None:
    text = json.dumps(value)

    envelope = parse_envelope(f'{{"x":1,"payload":{text},"y":[]}}')

    assert envelope.payload_text == text
    assert {fault.code for fault in envelope.faults} == payload_codes(json.loads(text))


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_but_a_refusal(body: bytes) -> None:
    try:
        parse_payload(body)
    except (InvalidJson, MessageInvalid):
        return
    assert json.loads(body) is not ABSENT


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ('"\\u0000"', "payload_contains_nul"),
        ('{"a\\u0000b":1}', "payload_contains_nul"),
        ('"\\ud800"', "payload_contains_surrogate"),
        ('"\\udc00\\ud800"', "payload_contains_surrogate"),
        ('{"\\uDFFF":1}', "payload_contains_surrogate"),
        (str(MAX_INTEGER + 1), "payload_integer_too_large"),
        (str(MIN_INTEGER - 1), "payload_integer_too_large"),
        ("1" * 5000, "payload_integer_too_large"),
        (f'{{"n":[-{"9" * 5000}]}}', "payload_integer_too_large"),
        ("NaN", "payload_not_finite"),
        ("[Infinity]", "payload_not_finite"),
        ("-Infinity", "payload_not_finite"),
        ("1e999", "payload_not_finite"),
        ("-1E+400", "payload_not_finite"),
        ("123456789012345678901234567890e299", "payload_not_finite"),
        (nested(MAX_DEPTH + 1), "payload_too_deep"),
        ('{"a":' * 33 + "1" + "}" * 33, "payload_too_deep"),
        (nested(2000), "payload_too_deep"),
        (nested(100_000), "payload_too_deep"),
    ],
)
def test_it_says_what_cannot_be_taken(payload: str, code: str) -> None:
    assert codes(f'{{"payload":{payload}}}') == {code}
    with pytest.raises(MessageInvalid) as refused:
        parse_payload(payload.encode())
    assert refused.value.code == code
    assert refused.value.errors[0]["field"] == "payload"


@pytest.mark.parametrize(
    "payload",
    [
        str(MAX_INTEGER),
        str(MIN_INTEGER),
        '"\\ud83d\\ude00"',
        '"\\\\u0000 \\\\ud800"',
        '"NaN and Infinity, 12345678901234567890"',
        '"5e999"',
        "1e308",
        nested(MAX_DEPTH),
        "[" + ",".join(["{}"] * 100) + "]",
        "0.1234567890123456789012345678901234567890",
    ],
)
def test_what_only_looks_like_trouble_is_taken(payload: str) -> None:
    assert codes(f'{{"payload":{payload}}}') == set()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "line 1, column 1 (character 0)"),
        ("{", "line 1, column 2 (character 1)"),
        ("{'payload':1}", "line 1, column 2 (character 1)"),
        ('{"payload":1,}', "line 1, column 14 (character 13)"),
        ('{"payload":1} x', "line 1, column 15 (character 14)"),
        ('{"payload" 1}', "line 1, column 12 (character 11)"),
        ('{"payload":}', "line 1, column 12 (character 11)"),
        ('{\n"payload":tru}', "line 2, column 11 (character 12)"),
        ('{"payload":"a\nb"}', "line 1, column 14 (character 13)"),
        ('{"payload":"\\x"}', "line 1, column 13 (character 12)"),
        ('{"payload":"abc', "line 1, column 12 (character 11)"),
        ('{"a":1 "b":2}', "line 1, column 8 (character 7)"),
    ],
)
def test_broken_json_is_refused_with_its_place(text: str, place: str) -> None:
    with pytest.raises(InvalidJson) as refused:
        parse_envelope(text)

    assert place in str(refused.value)


@pytest.mark.parametrize("text", ["[]", "1", '"x"', "null"])
def test_a_body_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(MessageInvalid, match="must be a JSON object"):
        parse_envelope(text)


def test_deep_nesting_that_never_ends_is_broken_json() -> None:
    with pytest.raises(InvalidJson):
        parse_envelope('{"payload":' + "[" * 100_000)


def test_a_field_given_twice_is_refused() -> None:
    envelope = parse_envelope('{"payload":1,"payload":2,"type":"demo","type":"demo"}')

    assert [(fault.code, fault.field) for fault in envelope.faults] == [
        ("duplicate_field", "payload"),
        ("duplicate_field", "type"),
    ]


def test_a_null_payload_is_a_payload() -> None:
    assert parse_envelope('{"payload":null}').payload is None
    assert parse_envelope("{}").payload is ABSENT


def test_a_byte_order_mark_is_dropped() -> None:
    assert decode(b"\xef\xbb\xbf{}") == "{}"


@pytest.mark.parametrize(
    "body", [b"\xff\xfe{\x00}\x00", b'{"payload":"\xc0\x80"}', b'{"payload":"\xed\xa0\x80"}', b"\x80"]
)
def test_a_body_that_is_not_utf8_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidJson, match="not UTF-8"):
        decode(body)


def test_a_plain_payload_is_not_walked() -> None:
    assert payload_faults(object(), '{"a":1}') == []


@pytest.mark.parametrize("field", ['"f{}":1', '"payload":1', '"tags":["\\u0000"]'])
def test_of_a_message_with_very_many_fields_only_the_end_is_read(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    text = "{" + ",".join(field.format(number) for number in range(20_000)) + "} "
    skip = parsing.skip_space
    skipped: list[int] = []

    def counted(text: str, at: int) -> int:
        skipped.append(at)
        return skip(text, at)

    monkeypatch.setattr(parsing, "skip_space", counted)

    envelope = parsing.scan_envelope(text, 0)

    assert envelope.end == len(text) - 1
    assert len(envelope.fields) + len(envelope.faults) > 100
    assert len(skipped) < 1000


def test_json_that_is_broken_behind_very_many_fields_is_refused() -> None:
    with pytest.raises(InvalidJson):
        parsing.scan_envelope("{" + ",".join(f'"f{number}":1' for number in range(20_000)) + ",}", 0)
