"""Signatures, against the examples of the Standard Webhooks specification and its libraries."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from messages_app.domain import signing
from messages_app.domain.signing import SecretRefused

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID, AT, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'


def test_the_signature_is_the_one_of_the_reference_libraries() -> None:
    assert signing.sign(signing.key_of(SECRET), ID, AT, BODY) == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_it_is_hmac_sha256_of_id_time_and_body() -> None:
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    expected = hmac.new(key, f"{ID}.{AT}.".encode() + BODY, hashlib.sha256).digest()

    assert signing.sign(key, ID, AT, BODY) == "v1," + base64.b64encode(expected).decode()


def test_two_secrets_make_two_signatures_with_a_space_between() -> None:
    keys = [signing.key_of(SECRET), b"x" * 32]
    made = signing.headers(keys, ID, AT, BODY)

    assert made["webhook-id"] == ID
    assert made["webhook-timestamp"] == str(AT)
    assert made["webhook-signature"].split(" ") == [signing.sign(key, ID, AT, BODY) for key in keys]
    assert all(signing.is_signed(key, made, BODY, now=AT) for key in keys)


def test_without_a_secret_nothing_is_signed() -> None:
    assert signing.headers([], ID, AT, BODY).keys() == {"webhook-id", "webhook-timestamp"}


@pytest.mark.parametrize(
    ("changed", "body", "now"),
    [
        ({"webhook-id": "other"}, BODY, AT),
        ({"webhook-timestamp": str(AT + 1)}, BODY, AT),
        ({"webhook-timestamp": ""}, BODY, AT),
        ({"webhook-timestamp": "soon"}, BODY, AT),
        ({"webhook-signature": ""}, BODY, AT),
        ({"webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OA="}, BODY, AT),
        ({}, BODY + b" ", AT),
        ({}, BODY, AT + 301),
        ({}, BODY, AT - 301),
    ],
)
def test_whatever_was_changed_is_noticed(changed: dict[str, str], body: bytes, now: float) -> None:
    key = signing.key_of(SECRET)
    given = {**signing.headers([key], ID, AT, BODY), **changed}

    assert not signing.is_signed(key, given, body, now=now)


def test_the_prefix_may_be_missing() -> None:
    assert signing.key_of(f" {SECRET.removeprefix('whsec_')}\n") == signing.key_of(SECRET)


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "whsec_not base64", "whsec_" + "é" * 32, "whsec_c2hvcnQ=", "whsec_" + "QUFB" * 22]
)
def test_a_malformed_secret_is_refused_without_being_shown(secret: str) -> None:
    with pytest.raises(SecretRefused) as caught:
        signing.key_of(secret)

    assert secret.removeprefix("whsec_") in ("", "c2hvcnQ=", "QUFB" * 22) or secret not in str(caught.value)
    assert "c2hvcnQ" not in str(caught.value)


def test_an_id_holds_no_dot_since_dots_separate_what_is_signed() -> None:
    assert signing.webhook_id("m1") == "m1"
    assert signing.webhook_id("m1.v2") == "m1:v2"
