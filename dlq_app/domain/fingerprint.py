"""Groups failures by error type, innermost application frame and message without numbers. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Final

#: Characters of a message that count; more would only let clients send more work.
_MESSAGE_CHARS = 300
#: Maximum characters of a stack whose frame is cached: long texts must not fill the memory.
_MAX_CACHED = 8 * 1024
_FRAME = re.compile(
    r'^[ \t|+]*File "(?P<file>[^"\n]{1,500})", line (?P<line>\d{1,9}), in (?P<function>[^\n]{1,200})$', re.M
)
_CHAINED = re.compile(
    r"^[ \t|]*(?:The above exception was the direct cause of the following exception"
    r"|During handling of the above exception, another exception occurred):$",
    re.M,
)
#: Code outside of the application: the interpreter, its standard library, installed packages, generated code.
_LIBRARY = re.compile(r"(?:^|/)(?:site-packages|dist-packages|lib/python\d[\d.]*|lib64/python\d[\d.]*)/|^<|\.zip/")

_UUID = re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", re.I)
_QUOTED = re.compile(r"(?<!\w)'[^'\n]{0,200}'|\"[^\"\n]{0,200}\"|`[^`\n]{0,200}`")
_HEX = re.compile(r"\b0x[0-9a-f]+\b|\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{6,}\b", re.I)
#: Words with a digit in them: order-5511870, ip-10-4-2-17, 5551870, v2.
_ID = re.compile(r"\b[\w-]*\d[\w-]*(?:\.\d+)*")
_SPACE = re.compile(r"\s+")
#: Files of this project that have moved. Their failures keep their old fingerprints, so that notes and states of groups
#: still apply.
_MOVED: Final = {
    "messages_app/attempt/coroutines.py": "messages_app/coroutines.py",
    "messages_app/attempt/databases.py": "messages_app/databases.py",
    "messages_app/delivery/client.py": "messages_app/delivery.py",
    "messages_app/delivery/pool.py": "messages_app/delivery_pool.py",
    "messages_app/delivery/response.py": "messages_app/delivery_response.py",
    "messages_app/domain/addresses.py": "messages_app/addresses.py",
    "messages_app/domain/delivery_policy.py": "messages_app/delivery_policy.py",
    "messages_app/domain/signing.py": "messages_app/signing.py",
    "messages_app/work/runner.py": "messages_app/runner.py",
}


#: The text of a message lost in a replay that runs alone: the same failure as the three losses before it.
_LOST_ONCE: Final = ("The process that ran it was lost once.", "The process that ran it was lost # times.")


@dataclass(frozen=True, slots=True)
class Frame:
    """One line of a traceback."""

    file: str
    line: int
    function: str

    @property
    def is_application(self) -> bool:
        """Whether the code belongs to the application rather than to a library."""
        return _LIBRARY.search(self.file.replace("\\", "/")) is None

    @property
    def short_file(self) -> str:
        """The last two parts of the path: independent of where a release is installed."""
        return "/".join(self._parts[-2:])

    @property
    def grouped_file(self) -> str:
        """The file as fingerprints name it: ``short_file``, or its name before it moved."""
        return _MOVED.get("/".join(self._parts[-3:]), self.short_file)

    @property
    def _parts(self) -> list[str]:
        return self.file.replace("\\", "/").split("/")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The name of a group, and the values it is computed from."""

    value: str
    error_type: str
    #: ``payments/gateway.py in capture``; empty without application code in the traceback.
    frame: str
    #: The message with ``#`` for the parts that vary.
    message: str


def frames(stack: str) -> list[Frame]:
    """The frames of the last exception, outermost first; empty for a text that is not a traceback."""
    return _frames(_CHAINED.split(stack)[-1])


def culprit(stack: str) -> Frame | None:
    """The innermost frame of application code, in the last exception or else in those that caused it."""
    for block in reversed(_CHAINED.split(stack)):
        for frame in reversed(_frames(block)):
            if frame.is_application:
                return frame
    return None


def normalised(message: str) -> str:
    """The first line with ``#`` for ids, numbers, hex and quoted text.

    >>> normalised("order 5511870 of 'ann' not found at 0x7f3a")
    'order # of # not found at #'
    """
    lines = message.strip()[: _MESSAGE_CHARS * 4].splitlines()
    text = lines[0][:_MESSAGE_CHARS] if lines else ""
    for pattern in (_UUID, _QUOTED, _HEX, _ID):
        text = pattern.sub("#", text)
    return _SPACE.sub(" ", text).strip()


def fingerprint(error_type: str, message: str, stack: str) -> Fingerprint:
    """The group of a failure. Line numbers are left out: they move with every release."""
    frame = (_known_frame if len(stack) <= _MAX_CACHED else _frame)(stack)
    text = normalised(message)
    if text == _LOST_ONCE[0]:
        text = _LOST_ONCE[1]
    digest = sha256("\0".join((error_type, frame, text)).encode("utf-8", "backslashreplace")).hexdigest()
    return Fingerprint(digest[:16], error_type, frame, text)


def _frame(stack: str) -> str:
    found = culprit(stack)
    return f"{found.grouped_file} in {found.function}" if found else ""


#: Failures of one kind share their stack, while their messages differ.
_known_frame = lru_cache(maxsize=128)(_frame)


def _frames(block: str) -> list[Frame]:
    return [Frame(m["file"], int(m["line"]), m["function"]) for m in _FRAME.finditer(block)]
