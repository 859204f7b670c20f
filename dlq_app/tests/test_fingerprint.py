"""Which failures are the same: on real tracebacks."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from dlq_app.domain import fingerprint as fingerprints
from dlq_app.domain.fingerprint import Frame, culprit, fingerprint, frames, normalised
from dlq_app.testing import STACK


def capture(amount: object) -> None:
    raise TimeoutError(f"payments-api did not answer within {amount} s")


def decode(text: str) -> None:
    json.loads(text)


def chained(text: str) -> None:
    try:
        decode(text)
    except ValueError as error:
        raise RuntimeError("the partner sent rubbish") from error


def group() -> None:
    raise ExceptionGroup("two things", [ValueError("one"), KeyError("two")])


def stack_of(call: Callable[..., None], *args: object) -> tuple[str, str]:
    try:
        call(*args)
    except BaseException as error:  # any real exception will do
        return str(error), traceback.format_exc()
    raise AssertionError("it should have failed")


def test_numbers_do_not_make_a_group() -> None:
    ten, twenty = stack_of(capture, 10), stack_of(capture, 20.5)

    assert fingerprint("TIMEOUT_ERROR", *ten) == fingerprint("TIMEOUT_ERROR", *twenty)


def test_the_error_type_the_place_and_the_message_do() -> None:
    message, stack = stack_of(capture, 10)
    here = fingerprint("TIMEOUT_ERROR", message, stack).value

    assert fingerprint("NETWORK_ERROR", message, stack).value != here
    assert fingerprint("TIMEOUT_ERROR", "something else", stack).value != here
    assert fingerprint("TIMEOUT_ERROR", message, stack.replace("in capture", "in refund")).value != here


def test_line_numbers_and_the_place_of_installation_do_not() -> None:
    message, stack = stack_of(capture, 10)
    moved = stack.replace("line ", "line 1").replace(__file__, "/opt/release-17/" + "/".join(__file__.split("/")[-2:]))

    assert fingerprint("TIMEOUT_ERROR", message, moved) == fingerprint("TIMEOUT_ERROR", message, stack)


def test_the_culprit_is_the_innermost_frame_of_ours() -> None:
    _, stack = stack_of(decode, "{")

    found = culprit(stack)

    assert found is not None
    assert found.function == "decode", "not json's own decoder.py below it"
    assert culprit(STACK) == Frame("/srv/app/payments/gateway.py", 88, "capture")


def test_of_chained_exceptions_the_last_one_counts() -> None:
    message, stack = stack_of(chained, "{")

    found = fingerprint("UNKNOWN_ERROR", message, stack)

    assert found.frame.endswith("in chained")
    assert [frame.function for frame in frames(stack)][-1] == "chained"


def test_a_chain_whose_last_link_is_library_code_falls_back_to_what_led_to_it() -> None:
    _, first = stack_of(capture, 1)
    library = STACK.replace('"/srv/app/payments/gateway.py"', '"/usr/lib/python3.11/http/client.py"')
    stack = f"{first}\nThe above exception was the direct cause of the following exception:\n\n{library}"

    found = culprit(stack)

    assert found is not None
    assert found.function == "capture"


def test_it_reads_exception_groups() -> None:
    _, stack = stack_of(group)

    found = culprit(stack)

    assert found is not None
    assert found.function == "group"


def test_a_text_that_is_no_traceback_still_has_a_group() -> None:
    assert fingerprint("WORKER_LOST", "lost 3 times", "").frame == ""
    lost = "The process that ran it was lost"
    again = fingerprint("WORKER_LOST", f"{lost} once.", "").value
    assert again == fingerprint("WORKER_LOST", f"{lost} 3 times.", "").value
    assert fingerprint("WORKER_LOST", "lost 3 times", "").value == fingerprint("WORKER_LOST", "lost 4 times", "").value


@pytest.mark.parametrize(
    ("message", "normal"),
    [
        ("order 5511870 not found", "order # not found"),
        ("user 'ann' and \"bob\" and `carl`", "user # and # and #"),
        ("it didn't and can't", "it didn't and can't"),
        ("id 6fa459ea-ee8a-3ca4-894e-db77e160355e gone", "id # gone"),
        ("at 0x7f3a21 in deadbeef42", "at # in #"),
        ("10.4.2.17 refused port 5432", "# refused port #"),
        ("first line\nsecond line 2", "first line"),
        ("", ""),
    ],
)
def test_it_leaves_out_what_varies(message: str, normal: str) -> None:
    assert normalised(message) == normal


@given(some.text(max_size=400), some.text(max_size=400))
def test_any_text_has_a_fingerprint(message: str, stack: str) -> None:
    found = fingerprint("UNKNOWN_ERROR", message, stack)

    assert len(found.value) == 16
    assert len(found.message) <= 300


@pytest.mark.parametrize("text", ["'" * 8000, "a1" * 4000, "0" * 8000, ('File "' * 5000), "-" * 8000, " \t|" * 9000])
def test_hostile_text_costs_no_time(text: str) -> None:
    """CPU seconds of this thread; what is quadratic here would take minutes."""
    began = time.thread_time()
    fingerprint("UNKNOWN_ERROR", text, text * 4)

    assert time.thread_time() - began < 5


def test_files_of_ours_that_have_moved_keep_the_groups_of_their_failures() -> None:
    before = (
        "Traceback (most recent call last):\n"
        '  File "/srv/messages_app/delivery.py", line 7, in deliver\n    send()\nE: x'
    )
    after = before.replace("messages_app/delivery.py", "messages_app/delivery/client.py")
    foreign = before.replace("messages_app/delivery.py", "shop/delivery/client.py")

    assert fingerprint("E", "x", after) == fingerprint("E", "x", before)
    assert fingerprint("E", "x", foreign) != fingerprint("E", "x", before)


def test_every_moved_file_is_there() -> None:
    root = Path(__file__).resolve().parents[2]

    assert [path for path in fingerprints._MOVED if not (root / path).is_file()] == []
