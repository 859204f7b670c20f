"""The quick parser answers nothing, or exactly what the strict parser does: same bytes, digests, faults and words."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Raw

from messages_app.domain.errors import MessageInvalid, MessagesError
from messages_app.domain.parsing import Envelope, decode, parse_envelope, payload_codes
from messages_app.registry import forget, handler
from messages_app.rest import quick_parsing, validation
from messages_app.rest.batch_parsing import scan_batch
from messages_app.rest.intake import MAX_BODY
from messages_app.rest.quick_parsing import quick_batch, quick_envelope

Outcome = Any


def judged(envelope: Envelope) -> Outcome:
    """What becomes of a message, and what the parser found."""
    body = envelope.payload_text.encode() if envelope.body is None else envelope.body
    try:
        submission = asdict(validation.check(envelope))
    except MessageInvalid as error:
        return type(error), error.code, error.detail, error.errors
    if "messageId" not in envelope.fields:
        del submission["message_id"]
    return submission, body, repr(envelope.value), envelope.fields


def strict_single(body: bytes) -> list[Outcome]:
    try:
        return [judged(parse_envelope(decode(body)))]
    except MessagesError as error:
        return [error.code]


def strict_batch(body: bytes) -> list[Outcome]:
    try:
        text = decode(body)
        items = scan_batch(text)
    except MessagesError as error:
        return [error.code]
    return [
        "too large"
        if len(text[start:end].encode()) > MAX_BODY
        else found.code
        if isinstance(found, MessagesError)
        else judged(found)
        for start, end, found in items
    ]


def differs(body: bytes) -> bool:
    """Whether the quick parser, if it answers, says something else than the strict one."""
    single, batch = quick_envelope(body), quick_batch(body, MAX_BODY)
    return (single is not None and [judged(single)] != strict_single(body)) or (
        batch is not None and list(map(judged, batch)) != strict_batch(body)
    )


def in_batch(*messages: bytes) -> bytes:
    return b'{"messages":[' + b",".join(messages) + b"]}"


def nested(depth: int) -> bytes:
    return b'{"payload":' + b"[" * depth + b"]" * depth + b"}"


#: Texts that one check or another of the quick parser is there for.
HOSTILE: Sequence[bytes] = [
    b'{"payload":1,"payload":2}',
    b'{"payload":{"a":"b"},"payload":[]}',
    b'{"payload":1,"type":"demo","type":"demo"}',
    b'{"type":1,"type":"demo","payload":1}',
    b'{"payload":1,"tags":["a"],"tags":["a"]}',
    b'{"payload":1,"tags":"a","tags":["b"]}',
    b'{"payload":1,"\\u0074ype":"demo","type":"demo"}',
    b'{"\\u0070ayload":"\\"","payload":1}',
    b'{"payload":1,"source":"a\\"b"}',
    b'{"payload":1,"source":"a\\u0000b"}',
    b'{"payload":1,"source":"\\ud800"}',
    b'{"payload":1,"source":"a\\u0022b"}',
    b'{"payload":1,"source":"a\\u0022","tags":["\\""]}',
    b'{"payload":1,"messageId":"\\u0061","type":"d\\u0065mo"}',
    b'{"payload":1,"tags":["\\ud83d\\ude00"]}',
    b'{"payload":1,"more":1}',
    b'{"payload":1,"":1}',
    b'{"payload":"\\u0000"}',
    b'{"payload":{"a\\u0000":1}}',
    b'{"payload":"\\ud800"}',
    b'{"payload":"\\\\u0000"}',
    b'{"payload":9223372036854775808}',
    b'{"payload":[-9223372036854775809]}',
    b'{"payload":"12345678901234567890"}',
    b'{"payload":1e999}',
    b'{"payload":[-1E+400]}',
    b'{"payload":123456789012345678901234567890e299}',
    b'{"payload":' + b"1" * 5000 + b"}",
    b'{"payload":[1e16,1e-7,1.50,-0.0,-0,1E5,0.1e1]}',
    b'{"payload":{"b":1,"a":{"\xc3\xa9":1,"z":2,"\xf0\x9f\x98\x80":3,"\xef\xbf\xbf":4}}}',
    b'{"payload":"\\u001f\\u007f\\u2028\\/\\b\\f\x7f"}',
    nested(32),
    nested(33),
    nested(2000),
    b'{"payload":"' + b"[" * 40 + b'"}',
    b'{"payload":["' + b"]" * 40 + b'",' + b"[" * 32 + b"]" * 33 + b"}",
    b'{"payload":["\\\\\\"' + b"]" * 40 + b'",' + b"[" * 32 + b"]" * 33 + b"}",
    b'{"payload":["\\\\",' + b"[" * 32 + b"]" * 32 + b',"\\\\"]}',
    b'{"payload":[' + b"[[]],[]," * 40 + b"{}]}",
    b'{"payload":NaN}',
    b'{"payload":[Infinity]}',
    b'{"payload":01}',
    b'{"payload":1.}',
    b'{"payload":"\xff"}',
    b'{"payload":"\xed\xa0\x80"}',
    b'{"payload":1,"source":"\xff"}',
    b'{"payload":1,"\xff":1}',
    b'{"payload":"\x01"}',
    b'{"payload":"a\nb"}',
    b'{"payload":1,}',
    b'{"payload":[1,]}',
    b'{"payload":1} x',
    b"\xef\xbb\xbf" + b'{"payload":1}',
    b'\t{ "payload" :\r\n 1 , "type" : "demo" } ',
    b'\x0c{"payload":1}',
    b'{"payload":null,"type":null}',
    b'{"payload":1,"notBefore":"2020-01-01T00:00:00Z"}',
    b'{"payload":1,"notBefore":"1969-01-01T00:00:00Z","priority":"soon","messageId":"a b"}',
    b'{"payload":1,"type":"nobody.knows"}',
    b'{"type":"demo"}',
    b"{}",
    b"[]",
    b"",
]
BATCHES: Sequence[bytes] = [
    *(in_batch(b'{"payload":0}', text, b'{"payload":{"a":1}}') for text in HOSTILE),
    b'{"messages":[{"payload":1}],"messages":[{"payload":2}]}',
    b'{"messages":[{"payload":1}],"more":[]}',
    b'{"messages":[]}',
    b'{"messages":{}}',
    b'{"messages":[{"payload":1}]',
    in_batch(*[b'{"payload":1}'] * 1001),
    in_batch(*[b'{"payload":1}'] * 1000),
    in_batch(b'{"payload":"' + b"x" * MAX_BODY + b'"}'),
    in_batch(b'{"payload":1' + b" " * MAX_BODY + b"}", b'{"payload":2}'),
    in_batch(*[b'{"payload":"' + b"x" * (MAX_BODY // 2) + b'"}'] * 3),
]

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**64), max_value=2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
labels = st.text(max_size=6) | st.just("shop")
messages = st.fixed_dictionaries(
    {"payload": json_values},
    optional={
        "type": st.sampled_from(["demo", "unknown", "Ä", ""]),
        "messageId": st.sampled_from(["a", "b-1", "no id", "é"]),
        "priority": st.sampled_from(["high", "normal", "low", "soon"]),
        "source": labels,
        "tags": st.lists(labels, max_size=3),
        "notBefore": st.sampled_from(["2020-01-01T00:00:00Z", "2020-02-30T00:00:00Z", "9999-01-01T00:00:00Z", "soon"]),
        "other": json_values,
    },
)
layouts: st.SearchStrategy[dict[str, Any]] = st.sampled_from([{"separators": (",", ":")}, {}, {"indent": 1}])
FRAGMENTS = [
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b" ", b"\t", b"\x00", b"\x80", b"\xef\xbb\xbf", b"0", b"-"),
    *(b"9" * 19, b"1e999", b"NaN", b"\\u0000", b"\\ud800", b"\\u0022", b"null", b"[" * 33),
    *(b'"type":"demo",', b'"payload":1,', b'"x":1,'),
]


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A message or a batch, in any layout and order, most of them with a few places changed."""
    several = draw(st.lists(messages, min_size=1, max_size=3))
    shuffled = [dict(draw(st.permutations(list(message.items())))) for message in several]
    value = {"messages": shuffled} if draw(st.booleans()) else shuffled[0]
    text = json.dumps(value, ensure_ascii=draw(st.booleans()), **draw(layouts))
    body = text.encode("utf-8", "surrogatepass")
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(body)))
        end = draw(st.integers(at, min(len(body), at + 12)))
        body = draw(
            st.sampled_from(
                [
                    body[:at] + draw(st.sampled_from(FRAGMENTS)) + body[at:],
                    body[:at] + body[end:],
                    body[:end] + body[at:end] + body[end:],
                ]
            )
        )
    return body


@settings(max_examples=400)
@given(bodies())
@example(b'{"payload":1.0}')
def test_it_says_what_the_strict_parser_says(body: bytes) -> None:
    assert not differs(body)


deep = st.recursive(
    st.text(st.sampled_from('[]{}"\\\\a'), max_size=6) | st.integers(0, 9),
    lambda inner: st.builds(
        lambda value, depth, before: [*before, nest(value, depth)],
        inner,
        st.integers(0, 30),
        st.lists(st.text(st.sampled_from('[]{}"\\\\'), max_size=4), max_size=2),
    ),
    max_leaves=3,
)


def nest(value: Any, depth: int) -> Any:
    for level in range(depth):
        value = {'"]': value} if level % 2 else [value]
    return value


@settings(max_examples=300)
@given(deep)
def test_levels_are_counted_without_building_values(value: Any) -> None:
    text = json.dumps(value)

    assert quick_parsing._is_shallow(text.encode()) == ("payload_too_deep" not in payload_codes(value))


@pytest.mark.parametrize("body", [*HOSTILE, *BATCHES], ids=lambda body: repr(body[:40]))
def test_hostile_texts_are_judged_the_same(body: bytes) -> None:
    assert not differs(body)


def lax_floats(text: str) -> Raw:
    return Raw(repr(float(text)))


MUTANTS: dict[str, tuple[Any, str, Any]] = {
    "fields given twice": (quick_parsing, "_is_all", lambda *counts: True),
    "values without a check": (quick_parsing, "_is_plain", lambda payload: True),
    "infinite floats": (quick_parsing, "_read_payload", msgspec.json.Decoder(float_hook=lax_floats).decode),
    "floats as msgspec writes them": (quick_parsing, "_read_payload", msgspec.json.Decoder().decode),
    "keys as they come": (validation, "canonical", msgspec.json.Encoder().encode),
    "nested without limit": (quick_parsing, "MAX_DEPTH", 33),
    "twenty digits": (quick_parsing, "_LONG", b"0" * 20),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_check_that_is_left_out_is_noticed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(*MUTANTS[name])

    assert any(differs(body) for body in (*HOSTILE, *BATCHES))


def test_a_message_above_the_limit_is_left_to_the_strict_parser() -> None:
    body = in_batch(b'{"payload":"' + b"x" * MAX_BODY + b'"}')
    assert quick_batch(body, MAX_BODY) is None
    assert quick_batch(body, 2 * MAX_BODY) is not None


@pytest.mark.parametrize("layout", [{"separators": (",", ":")}, {}, {"indent": 2}])
@pytest.mark.parametrize("ascii", [True, False])
def test_ordinary_messages_are_parsed_quickly(layout: dict[str, Any], ascii: bool) -> None:
    payload = {"id": 7, "price": 1.5, "name": 'Zoë "Z" 😀', "rows": [{"n": number} for number in range(50)]}
    message = {"type": "demo", "payload": payload, "messageId": "a", "source": "Zoë", "tags": ["a", "b"]}
    single = json.dumps(message, ensure_ascii=ascii, **layout).encode()
    batch = json.dumps({"messages": [message] * 100}, ensure_ascii=ascii, **layout).encode()

    assert quick_envelope(single) is not None
    assert len(quick_batch(batch, MAX_BODY) or ()) == 100


def test_a_breaker_is_chosen_by_the_numbers_of_a_payload() -> None:
    seen: list[Any] = []

    def choose(payload: Any) -> str:
        seen.append(payload)
        return "by-price"

    handler("test.priced", breaker=choose, breakers=lambda: ["by-price"])(lambda message: None)
    try:
        envelope = quick_envelope(b'{"type":"test.priced","payload":{"price":1.5}}')
        assert envelope is not None
        assert validation.check(envelope).breaker == "by-price"
    finally:
        forget("test.priced")
    assert seen == [{"price": 1.5}]


@pytest.mark.parametrize(
    "body",
    [
        in_batch(*[b'{"payload":1}'] * 300_000),
        b'{"messages":[{"payload":' + b"[" * 8_000_000,
        b'{"messages":[{"payload":' + b'{"a":' * 1_600_000,
        b'{"messages":[{"payload":' + b"1" * 8_000_000 + b"}]}",
    ],
    ids=["many", "deep", "deep objects", "digits"],
)
def test_long_hostile_texts_are_left_to_the_strict_parser(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    built: list[int] = []

    def counted(body: bytes, messages: Sequence[Any], quotes: int) -> list[Envelope] | None:
        built.append(len(messages))
        return envelopes(body, messages, quotes)

    envelopes: Callable[..., list[Envelope] | None] = quick_parsing._envelopes
    monkeypatch.setattr(quick_parsing, "_envelopes", counted)

    assert quick_batch(body, MAX_BODY) is None
    assert sum(built) <= 1
