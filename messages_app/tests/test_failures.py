"""Classification of whatever a handler may raise."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
import traceback
import urllib.error
from datetime import timedelta
from decimal import Decimal
from email.message import Message as Headers
from fractions import Fraction
from typing import Any

import django.core.exceptions
import django.db
import pymongo.errors
import pytest
import redis.exceptions

from messages_app import failures
from messages_app.failures import ErrorKind, HandlerError, PermanentError, RateLimitError, TransientError, classify

MAX = failures.MAX_RETRY_AFTER_MS


@pytest.mark.parametrize(
    ("error", "error_type", "kind"),
    [
        (TimeoutError("slow"), "TIMEOUT_ERROR", "transient"),
        (ConnectionRefusedError("no"), "NETWORK_ERROR", "transient"),
        (socket.gaierror(-2, "unknown name"), "NETWORK_ERROR", "transient"),
        (OSError(errno.ENETUNREACH, "no route"), "NETWORK_ERROR", "transient"),
        (OSError(errno.ENOSPC, "disk full"), "UNKNOWN_ERROR", "unknown"),
        (FileNotFoundError(errno.ENOENT, "gone"), "UNKNOWN_ERROR", "unknown"),
        (PermissionError(errno.EACCES, "no"), "AUTHORIZATION_ERROR", "permanent"),
        (ValueError("odd"), "UNKNOWN_ERROR", "unknown"),
        (KeyError("k"), "UNKNOWN_ERROR", "unknown"),
        (SystemExit(1), "UNKNOWN_ERROR", "unknown"),
        (urllib.error.URLError(TimeoutError("slow")), "TIMEOUT_ERROR", "transient"),
        (urllib.error.HTTPError("http://x", 503, "busy", Headers(), None), "SERVICE_UNAVAILABLE", "transient"),
        (urllib.error.HTTPError("http://x", 404, "gone", Headers(), None), "NOT_FOUND_ERROR", "permanent"),
        (django.core.exceptions.ValidationError("no"), "VALIDATION_ERROR", "permanent"),
        (django.db.OperationalError("gone"), "DATABASE_ERROR", "transient"),
        (django.db.IntegrityError("twice"), "UNKNOWN_ERROR", "unknown"),
        (pymongo.errors.ServerSelectionTimeoutError("gone"), "DATABASE_ERROR", "transient"),
        (pymongo.errors.DuplicateKeyError("twice"), "UNKNOWN_ERROR", "unknown"),
        (redis.exceptions.BusyLoadingError("loading"), "DATABASE_ERROR", "transient"),
        (redis.exceptions.TimeoutError("slow"), "DATABASE_ERROR", "transient"),
        (failures.AttemptTimeout(), "TIMEOUT_ERROR", "transient"),
        (TransientError("later"), "SERVICE_UNAVAILABLE", "transient"),
        (PermanentError("never"), "VALIDATION_ERROR", "permanent"),
        (HandlerError("?", error_type="NOT_FOUND_ERROR"), "NOT_FOUND_ERROR", "permanent"),
        (HandlerError("?", error_type="OUT_OF_STOCK"), "OUT_OF_STOCK", "unknown"),
        (HandlerError("?", error_type="OUT_OF_STOCK", kind=ErrorKind.TRANSIENT), "OUT_OF_STOCK", "transient"),
        (HandlerError("?", error_type="not\na type"), "UNKNOWN_ERROR", "unknown"),
    ],
)
def test_it_classifies(error: BaseException, error_type: str, kind: str) -> None:
    failure = classify(error)

    assert (failure.error_type, failure.kind) == (error_type, kind)


@pytest.mark.parametrize(
    ("status", "error_type"),
    [
        (400, "VALIDATION_ERROR"),
        (401, "AUTHENTICATION_ERROR"),
        (403, "AUTHORIZATION_ERROR"),
        (404, "NOT_FOUND_ERROR"),
        (408, "TIMEOUT_ERROR"),
        (410, "NOT_FOUND_ERROR"),
        (422, "VALIDATION_ERROR"),
        (429, "RATE_LIMIT_ERROR"),
        (500, "SERVICE_UNAVAILABLE"),
        (302, "UNKNOWN_ERROR"),
    ],
)
def test_an_http_status_has_an_error_type(status: int, error_type: str) -> None:
    assert failures.http_error_type(status) == error_type


def test_settings_come_before_the_table() -> None:
    failure = classify(
        TimeoutError("slow"), types={"builtins.OSError": "DISK_ERROR", "builtins.TimeoutError": "SLOW_ERROR"},
        kinds={"SLOW_ERROR": "permanent"},
    )  # fmt: skip

    assert (failure.error_type, failure.kind) == ("SLOW_ERROR", "permanent")


def test_a_class_of_ones_own_is_found_by_its_ancestor() -> None:
    class SlowDiskError(TimeoutError):
        pass

    assert classify(SlowDiskError("slow")).error_type == "TIMEOUT_ERROR"


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        (2.5, 2500), (0, 0), (None, None), (-1, None), (float("nan"), None), (True, None), ("5", None),
        (object(), None),
        (timedelta(seconds=5), 5000), (timedelta(seconds=-5), None), (timedelta.max, MAX), (Decimal("5"), 5000),
        (Decimal("0.0001"), 1), (Decimal("NaN"), None), (Decimal("sNaN"), None), (Decimal("-Infinity"), None),
        (Decimal("Infinity"), MAX), (Decimal("1e999999"), MAX), (Fraction(5, 2), 2500), (float("inf"), MAX),
        (float("-inf"), None), (1e306, MAX), (10**400, MAX), (-(10**400), None), (86_401, MAX),
    ],
)  # fmt: skip
def test_a_wish_counts_only_when_it_is_a_duration(wish: Any, expected: int | None) -> None:
    assert classify(RateLimitError("slower", retry_after=wish)).retry_after_ms == expected


def test_an_error_class_without_a_docstring_or_text_can_be_raised() -> None:
    class QuotaError(TransientError):
        pass

    assert classify(QuotaError()).reason.endswith("QuotaError")


def test_reason_and_stack_are_bounded_in_bytes_and_hold_no_surrogates() -> None:
    failure = classify(ValueError("ü\ud800" * 50_000))

    assert len(failure.reason.encode()) <= 8 * 1024
    assert len(failure.stack.encode()) <= 32 * 1024


def test_a_long_stack_keeps_its_innermost_lines() -> None:
    clipped = failures.clip_middle("outermost\n" + "x" * 100_000 + "\ninnermost", failures.STACK_LIMIT)

    assert clipped.startswith("outermost")
    assert clipped.endswith("innermost")
    assert len(clipped.encode()) <= failures.STACK_LIMIT


def test_a_stack_shows_frames_but_no_local_variables() -> None:
    def failing(secret: str) -> None:
        raise ValueError("odd")

    try:
        failing("hunter" + "2")
    except ValueError as error:
        failure = classify(error)

    assert "in failing" in failure.stack
    assert "hunter2" not in failure.stack


def test_a_plain_stack_reads_as_python_prints_it() -> None:
    def failing() -> None:
        raise ValueError("odd")

    try:
        failing()
    except ValueError as error:
        ours = classify(error).stack
        printed = "".join(traceback.format_exception(error))

    assert ours.splitlines() == [line for line in printed.splitlines() if set(line.strip()) - {"^", "~"}]


def test_a_stack_tells_of_causes_notes_and_recursion() -> None:
    def endless(depth: int) -> int:
        return endless(depth + 1)

    stacks = []
    nothing: dict[str, int] = {}
    for failing in (lambda: nothing["key"], lambda: endless(0)):
        try:
            try:
                failing()  # type: ignore[no-untyped-call]
            except (KeyError, RecursionError) as cause:
                cause.add_note("said beside")
                raise RuntimeError("because of it") from cause
        except RuntimeError as error:
            stacks.append(classify(error).stack)

    assert all("direct cause" in stack and "said beside" in stack for stack in stacks)
    assert "Previous line repeated" in stacks[1]


def test_an_exception_that_cannot_even_be_printed_is_a_failure_like_any_other() -> None:
    class NastyError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    failure = classify(NastyError())

    assert failure.error_type == "UNKNOWN_ERROR"
    assert "NastyError" in failure.reason


def test_the_table_imports_no_driver() -> None:
    script = "import sys, messages_app.failures; print([m for m in ('pymongo', 'redis') if m in sys.modules])"

    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "[]"


def test_every_type_of_the_table_has_a_kind() -> None:
    assert set(failures.TYPES.values()) <= set(failures.KINDS)
