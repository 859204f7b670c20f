"""``traceparent`` is read strictly, and whatever is not one is ignored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.traceparent import trace_id_of, traceparent_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (GOOD, GOOD),
        (f" {GOOD}\t", GOOD),
        (f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-00"),
        # Only "sampled" of the flags is known.
        (f"00-{TRACE}-{SPAN}-ff", GOOD),
        (f"00-{TRACE}-{SPAN}-02", f"00-{TRACE}-{SPAN}-00"),
        # A later version may have more at the end.
        (f"01-{TRACE}-{SPAN}-01", GOOD),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", GOOD),
    ],
)
def test_a_valid_header_is_kept_in_version_00(header: str, found: str) -> None:
    assert traceparent_of(header) == found
    assert trace_id_of(found) == TRACE


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "garbage",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00_{TRACE}_{SPAN}_01",
        f"{GOOD},{GOOD}",
        f"{GOOD}\n",
        f"01-{TRACE}-{SPAN}-01-\n",
        f"01-{TRACE}-{SPAN}-01-{'x' * 300}",
        f"00-{chr(0x660) * 32}-{SPAN}-01",
    ],
)
def test_anything_else_is_ignored(header: str | None) -> None:
    assert traceparent_of(header) == ""
    assert trace_id_of("") == ""


@given(st.text(max_size=300))
def test_no_text_is_an_error(text: str) -> None:
    assert traceparent_of(text) in ("", traceparent_of(traceparent_of(text)))
