"""The header ``traceparent`` of W3C Trace Context: which trace a message belongs to. Text from outside: read strictly.

Its companion ``tracestate`` is not kept: it is data of tracing systems, and other systems work without it.
"""

from __future__ import annotations

import re

#: Version, trace id, span id, flags. A later version may append fields after another ``-``.
_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x21-\x7e]*)?")
_MAX_LENGTH = 256
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16


def traceparent_of(header: str | None) -> str:
    """The header in its canonical form of version 00, 55 characters; empty if it is missing or invalid.

    The standard requires that an invalid header is ignored, so a bad one never rejects a message. Of the flags only
    "sampled" is kept.
    """
    if not header or len(header) > _MAX_LENGTH:
        return ""
    found = _HEADER.fullmatch(header.strip(" \t"))
    if found is None:
        return ""
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more is not None) or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return ""
    return f"00-{trace_id}-{span_id}-{int(flags, 16) & 1:02x}"


def trace_id_of(traceparent: str) -> str:
    """The trace id in a canonical ``traceparent``, 32 hexadecimal digits; empty without one."""
    return traceparent[3:35]
