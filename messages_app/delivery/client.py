"""``http.deliver``: POST what a message carries to a host that the policy allows, signed, and judge the answer.

What is sent is the text of ``body`` as it was submitted, byte for byte; without ``body`` it is the whole payload.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import MAXYEAR, UTC, datetime
from email.utils import parsedate_tz
from itertools import pairwise
from json.decoder import scanstring  # type: ignore[attr-defined]  # the C scanner of the standard library
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urldefrag, urljoin

from messages_app import conf
from messages_app.domain import signing
from messages_app.domain.addresses import Destination, UrlRefused, parse_url
from messages_app.domain.delivery_policy import HostPolicy
from messages_app.domain.parsing import scan_value, skip_space
from messages_app.domain.signing import SecretRefused
from messages_app.envelope import Message
from messages_app.failures import (
    AUTHENTICATION_ERROR,
    NETWORK_ERROR,
    TIMEOUT_ERROR,
    HandlerError,
    InvalidPayloadError,
    PermanentError,
    TransientError,
    http_error_type,
)
from processes import tracing
from wire.visible_text import one_line

if TYPE_CHECKING:
    from messages_app.delivery.pool import Answer, Pools

MAX_HEADERS: Final = 20
#: Characters of an answer that are kept and shown.
SNIPPET: Final = 200
#: Seconds before the attempt's deadline at which a delivery ends, so that it can say itself how.
MARGIN_S: Final = 0.25
_FIELDS: Final = ("url", "body", "headers")
TRACEPARENT: Final = "traceparent"

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_HEADER_VALUE = re.compile(r"[\t -~]{0,2048}")
#: Ours to set, or about the connection and nothing else.
_NOT_THEIRS: Final = frozenset(
    {
        "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "cookie", "expect",
        "host", "idempotency-key", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "user-agent",
    }
)  # fmt: skip
#: Longest wait that is taken from an answer, in seconds: above whatever a policy may honour.
MAX_WAIT_S: Final = 1e9
#: Characters of ``Retry-After`` that are read.
_RETRY_AFTER_READ: Final = 1000
_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?")
_COMMA = re.compile(r"\s*,\s*")


@dataclass(frozen=True, slots=True)
class Delivery:
    """The delivery that a payload asks for."""

    destination: Destination
    body: bytes
    headers: Mapping[str, str]


def deliver(message: Message, pools: Pools | None = None) -> dict[str, Any]:
    """Deliver once and say what came back: ``status``, ``ms``, ``bytes`` read, ``snippet`` (``truncated`` if cut).

    Raises ``HandlerError`` for everything but a 2xx. Takes no longer than is left of the attempt.
    """
    if pools is None:
        from messages_app.delivery.pool import pools as pools_of_process

        pools = pools_of_process()
    delivery = read(message)
    allowed = conf.delivery_policy()
    refusal = allowed.refusal(delivery.destination)
    policy = allowed.of(delivery.destination)
    if policy is None or refusal is not None:
        raise InvalidPayloadError(refusal or "The destination is not allowed.")
    headers = _headers(message, delivery, policy)
    within_s = message.seconds_left(datetime.now(UTC)) - MARGIN_S
    return (_traced if tracing.is_on else _sent)(message, pools, delivery, policy, headers, within_s)


def breaker_of(payload: Any) -> str | None:
    """The circuit breaker of the host that a payload names; None for a payload that cannot be delivered."""
    try:
        destination = parse_url(payload.get("url") if isinstance(payload, dict) else None)
    except UrlRefused:
        return None
    policy = conf.delivery_policy().of(destination)
    return policy.breaker if policy is not None else None


def breaker_names() -> Collection[str]:
    """Every circuit breaker that deliveries can have."""
    return conf.delivery_policy().breakers


def _sent(
    message: Message, pools: Pools, delivery: Delivery, policy: HostPolicy, headers: dict[str, str], within_s: float
) -> dict[str, Any]:  # fmt: skip
    began = time.monotonic()
    answer = _ask(pools, delivery, policy, headers, within_s)
    return _judged(answer, delivery.destination, round((time.monotonic() - began) * 1000))


def _traced(
    message: Message, pools: Pools, delivery: Delivery, policy: HostPolicy, headers: dict[str, str], within_s: float
) -> dict[str, Any]:  # fmt: skip
    """``_sent`` in a span, without path and query of the URL: they can hold secrets."""
    where = delivery.destination
    about = {"http.request.method": "POST", "server.address": where.host, "server.port": where.port}
    span = tracing.start("POST", "client", message.traceparent, about)
    if headers.get(TRACEPARENT) == message.traceparent:
        headers[TRACEPARENT] = span.traceparent
    try:
        found = _sent(message, pools, delivery, policy, headers, within_s)
    except HandlerError as error:
        span.end(error_type=error.error_type or type(error).__name__)
        raise
    except BaseException as error:
        span.end(error_type=type(error).__name__)
        raise
    span.end({"http.response.status_code": found["status"]})
    return found


# -- what is asked for


def read(message: Message) -> Delivery:
    """The payload of a message, checked. Raises ``InvalidPayloadError``."""
    payload = message.payload
    if not isinstance(payload, dict):
        raise InvalidPayloadError('The payload must be an object: {"url": "https://…", "body": …}.')
    try:
        destination = parse_url(payload.get("url"))
    except UrlRefused as error:
        raise InvalidPayloadError(f"url {error}.") from None
    if "body" not in payload:
        if "headers" in payload:
            raise InvalidPayloadError("headers need a body; without body the whole payload is sent.")
        return Delivery(destination, message.text.encode() or _encoded(payload), {})
    unknown = sorted(set(payload) - set(_FIELDS))
    if unknown:
        # They would be lost silently, and they may be what was meant to be sent.
        raise InvalidPayloadError(f"{_shown(unknown[0])} is no field beside body; known are {', '.join(_FIELDS)}.")
    text = dict(_members(message.text)).get("body")
    body = _encoded(payload["body"]) if text is None else text.encode()
    return Delivery(destination, body, _checked_headers(payload.get("headers", {})))


def _members(text: str) -> Iterator[tuple[str, str]]:
    """Name and text of each member of the JSON object that ``text`` is known to hold; nothing when it is empty."""
    at = skip_space(text, skip_space(text, 0) + 1)
    while text[at : at + 1] == '"':
        name, at = scanstring(text, at + 1)
        at = skip_space(text, skip_space(text, at) + 1)
        _, end, _ = scan_value(text, at)
        yield name, text[at:end]
        at = skip_space(text, skip_space(text, end) + 1)


def _encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _checked_headers(given: Any) -> Mapping[str, str]:
    if not isinstance(given, dict) or len(given) > MAX_HEADERS:
        raise InvalidPayloadError(f"headers must be an object of at most {MAX_HEADERS} texts.")
    # Many receivers take "_" for "-".
    if len({name.lower().replace("_", "-") for name in given}) != len(given):
        raise InvalidPayloadError("headers names one twice.")
    for name, value in given.items():
        lower = name.lower().replace("_", "-")
        if not _HEADER_NAME.fullmatch(name):
            raise InvalidPayloadError(f"headers: {_shown(name)} is no name of a header.")
        if lower in _NOT_THEIRS or lower.startswith(("webhook-", "proxy-")):
            raise InvalidPayloadError(f"headers: {name} is not the message's to set.")
        if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            raise InvalidPayloadError(f"headers: {name} must be a text of at most 2048 printable ASCII characters.")
    return given


# -- what is sent


def _headers(message: Message, delivery: Delivery, policy: HostPolicy) -> dict[str, str]:
    identity = signing.webhook_id(message.idempotency_key)
    trace = {TRACEPARENT: message.traceparent} if message.traceparent else {}
    if any(name.lower() == TRACEPARENT for name in delivery.headers):
        trace = {}  # the message names a trace of its own
    return {
        **delivery.headers,
        **trace,
        "Content-Type": "application/json",
        "Accept-Encoding": "identity",
        "User-Agent": f"dlq/{conf.code_version()}",
        "Idempotency-Key": identity,
        **signing.headers(keys_of(policy), identity, int(time.time()), delivery.body),
    }


def keys_of(policy: HostPolicy) -> list[bytes]:
    """The signing keys of a host, from the environment. Raises ``HandlerError`` naming the variable, never its value.

    Permanent: until a process starts with another environment it will be the same. The host is not to blame.
    """
    keys = []
    for variable in policy.secrets:
        wrong = secret_problem(variable)
        if wrong is not None:
            raise PermanentError(f"{wrong} Set it and replay.", error_type=AUTHENTICATION_ERROR)
        keys.append(signing.key_of(os.environ[variable]))
    return keys


def secret_problem(variable: str) -> str | None:
    """What is wrong with the secret in this environment variable, None when it can be used."""
    secret = os.environ.get(variable, "")
    if not secret:
        return f"The environment variable {variable}, which signs deliveries, is not set."
    try:
        signing.key_of(secret)
    except SecretRefused as error:
        return f"The environment variable {variable}, which signs deliveries, {error}."
    return None


def _ask(
    pools: Pools, delivery: Delivery, policy: HostPolicy, headers: Mapping[str, str], within_s: float
) -> Answer:  # fmt: skip
    """The answer of the host, or an error that says why there is none."""
    from urllib3.exceptions import HTTPError

    from messages_app.delivery.pool import AddressRefused

    origin = delivery.destination.origin
    try:
        return pools.post(delivery.destination, policy, delivery.body, headers, within_s)
    except AddressRefused as error:
        raise InvalidPayloadError(
            f'{origin} is not allowed: {error}. Private ones need allow_private of [hosts."{policy.name}"] '
            f"in {conf.delivery_policy().file}."
        ) from None
    except (HTTPError, OSError) as error:
        raise _unanswered(origin, error) from error


# -- what came back


def _judged(answer: Answer, destination: Destination, took_ms: int) -> dict[str, Any]:
    origin, status = destination.origin, answer.status
    snippet = _shown(answer.body.decode("utf-8", "replace"))
    if 200 <= status < 300:
        told = {"status": status, "ms": took_ms, "bytes": len(answer.body), "snippet": snippet}
        return told if answer.is_whole else {**told, "truncated": True}
    said = f"{origin} answered {status}{f': {snippet}' if snippet else ''}"
    if 300 <= status < 400:
        where = _led_to(answer.headers.get("Location", ""), destination)
        raise PermanentError(f"{origin} answered {status}{where}: redirects are not followed.")
    if status in (408, 429) or 500 <= status < 600:
        retry_after = seconds_to_wait(answer.headers.get("Retry-After"), time.time())
        raise TransientError(said, error_type=http_error_type(status), retry_after=retry_after)
    if 400 <= status < 500:
        raise PermanentError(said, error_type=http_error_type(status))
    raise TransientError(f"{origin} answered {status}, which is no answer.", error_type=NETWORK_ERROR)


def _led_to(location: str, destination: Destination) -> str:
    """Where a redirect leads, in words that follow the status; empty when it does not say.

    Never path or query: most redirects repeat those of the message's own URL, which can hold secrets.
    """
    if not location:
        return ""
    try:
        found = parse_url(urldefrag(urljoin(destination.origin + destination.target, location)).url)
    except ValueError:
        return ", a redirect to an address that cannot be read"
    if found.origin == destination.origin:
        return ", a redirect to another path of the same host"
    return f", a redirect to {found.origin}"


def seconds_to_wait(value: str | None, now: float) -> float | None:
    """Return the wait that ``Retry-After`` asks for, in seconds from ``now``; None when nothing in it can be read.

    Of several values, which proxies join with commas, the longest counts. A wait beyond ``MAX_WAIT_S`` becomes
    that. How much of it is honoured is the retry policy's (``max_retry_after_ms``).
    """
    # A date has a comma of its own, after the day of the week.
    parts = _COMMA.split((value or "")[:_RETRY_AFTER_READ].strip())
    dates = [f"{day}, {rest}" for day, rest in pairwise(parts)]
    waits = [wait for text in (*parts, *dates) if (wait := _wait_of(text, now)) is not None]
    return max(waits, default=None)


def _wait_of(text: str, now: float) -> float | None:
    if _SECONDS.fullmatch(text):
        return min(float(text), MAX_WAIT_S)
    try:
        parsed = parsedate_tz(text)
        if parsed is None:
            return None
        if parsed[0] > MAXYEAR:
            return MAX_WAIT_S
        # The format has no other zone than GMT, however it is written.
        when = datetime(*parsed[:6], tzinfo=UTC).timestamp() - (parsed[9] or 0)
    except (ValueError, TypeError, IndexError, OverflowError):
        # What the parser raises depends on how odd the foreign text is.
        return None
    return min(max(0.0, when - now), MAX_WAIT_S)


def _unanswered(origin: str, error: BaseException) -> HandlerError:
    """The failure of a delivery without an answer: out of time, or something between here and there."""
    root = _root(error)
    if isinstance(root, TimeoutError):
        return TransientError(f"{origin} did not answer in time ({root}).", error_type=TIMEOUT_ERROR)
    reason = _shown(str(root)) or type(root).__name__
    return TransientError(f"{origin} did not answer: {reason}.", error_type=NETWORK_ERROR)


def _root(error: BaseException) -> BaseException:
    """What happened, out of the wrappings that say where."""
    seen = error
    for _ in range(8):
        inner = seen.__cause__ or next((one for one in seen.args if isinstance(one, BaseException)), None)
        if inner is None:
            break
        seen = inner
    return seen


def _shown(text: str) -> str:
    """External text, short and on one line, with invisible characters escaped."""
    flat = one_line(text[: 4 * SNIPPET]).strip()
    return flat if len(flat) <= SNIPPET else f"{flat[: SNIPPET - 1]}…"
