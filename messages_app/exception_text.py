"""Name, text, notes and stack of a foreign exception.

An exception is foreign code. Its ``__str__``, notes, ``__class__`` and causes may raise, take long, be huge or form a
circle. So each access runs once and is guarded, attributes of Python itself are read past the class's own, and all
sizes are limited. The caller limits the time: see ``runner``.
"""

from __future__ import annotations

import linecache
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import CodeType, TracebackType
from typing import Any, TypeVar, cast

_T = TypeVar("_T")

NO_TEXT = "(its text could not be made)"
#: Maximum characters of one text: more than a reason or stack may have.
_TEXT_LIMIT = 40_000
_NAME_LIMIT = 200
_NOTE_LIMIT = 2_000
_MAX_NOTES = 10
_LINE_LIMIT = 500
#: Maximum exceptions in one stack, with causes and members of groups.
_MAX_EXCEPTIONS = 30
#: Frames shown of one exception: the outermost and the innermost.
_OUTER_FRAMES, _INNER_FRAMES = 50, 150
#: Maximum repetitions of a frame that are shown; more are counted.
_REPEATS_SHOWN = 3
#: Maximum number of cached texts of frames, and characters of one.
_MAX_KNOWN, _MAX_KNOWN_TEXT = 128, 8 * 1024
#: Frames of the process that runs handlers are not shown.
_OWN_FRAMES = frozenset(str(Path(__file__).parent / name) for name in ("work/runner.py", "attempt/coroutines.py"))

_BECAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_MEANWHILE = "\nDuring handling of the above exception, another exception occurred:\n\n"

#: Places in the code → these codes, and the text of the frames. Handlers fail at the same places, and finding the lines
#: of source costs most of a stack. An id stays that of its code as long as the code is kept here.
_known: dict[tuple[int, ...], tuple[list[CodeType], str]] = {}

#: Read from where Python keeps them: a class may have properties of the same names.
_cause_of: Callable[[BaseException], BaseException | None] = vars(BaseException)["__cause__"].__get__
_context_of: Callable[[BaseException], BaseException | None] = vars(BaseException)["__context__"].__get__
_hides_context: Callable[[BaseException], bool] = vars(BaseException)["__suppress_context__"].__get__
_traceback_of: Callable[[BaseException], TracebackType | None] = vars(BaseException)["__traceback__"].__get__
_members_of: Callable[[BaseException], tuple[BaseException, ...]] = vars(BaseExceptionGroup)["exceptions"].__get__
_ancestors_of: Callable[[type], tuple[type, ...]] = vars(type)["__mro__"].__get__
_qualname_of: Callable[[type], str] = vars(type)["__qualname__"].__get__
_module_of: Callable[[type], str] = vars(type)["__module__"].__get__


def guarded(read: Callable[[], _T], otherwise: _T) -> _T:
    """The result of running foreign code; ``otherwise`` when it raises anything."""
    try:
        return read()
    except BaseException:
        return otherwise


def attribute(error: object, name: str) -> Any:
    """An attribute of a foreign object; None when it is missing or raises."""
    return guarded(lambda: getattr(error, name, None), None)


def exact(text: str) -> str:
    """The same text as a plain ``str``: methods of a subclass may do anything."""
    return str.__str__(text)


def ancestors(kind: type) -> Iterator[tuple[type, str]]:
    """The class and its ancestors, nearest first, each with its dotted name."""
    for ancestor in _ancestors_of(kind):
        yield ancestor, f"{_module(ancestor)}.{exact(_qualname_of(ancestor))}"


def _module(kind: type) -> str:
    module = guarded(lambda: _module_of(kind), "")
    return exact(module) if issubclass(type(module), str) else ""


def name_of(kind: type) -> str:
    """The class's own name."""
    return exact(_qualname_of(kind))[:_NAME_LIMIT]


def text_of(error: BaseException) -> str:
    """The exception's text. Runs its code: call once."""
    return guarded(lambda: exact(str(error))[:_TEXT_LIMIT], NO_TEXT)


def stack_of(error: BaseException, text: str) -> str:
    """Frames, causes, notes and members of groups, innermost last, as Python prints them but without carets.

    ``text``: the text of ``error``, which is not read again. Local variables are never shown.
    """
    return "".join(_Stack().chain(error, text))


class _Stack:
    """The text of one stack. Counts its exceptions, since each may lead to any number of others."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def chain(self, error: BaseException, known_text: str | None) -> Iterable[str]:
        """The exceptions that led to this one, then this one."""
        parts: list[list[str]] = []
        current: BaseException | None = error
        joined = ""
        while current is not None:
            if id(current) in self._seen or len(self._seen) >= _MAX_EXCEPTIONS:
                parts.append(["… more exceptions led to this one …\n", joined])
                break
            self._seen.add(id(current))
            text = text_of(current) if known_text is None else known_text
            known_text = None
            parts.append([*self._alone(current, text), joined])
            cause = _cause_of(current)
            if cause is not None:
                current, joined = cause, _BECAUSE
            else:
                current, joined = None if _hides_context(current) else _context_of(current), _MEANWHILE
        return (line for part in reversed(parts) for line in part)

    def _alone(self, error: BaseException, text: str) -> Iterator[str]:
        tb = _traceback_of(error)
        if tb is not None:
            yield "Traceback (most recent call last):\n"
            yield from _frames(tb)
        kind = type(error)
        module, name = _module(kind)[:_NAME_LIMIT], name_of(kind)
        if module not in ("builtins", "__main__", ""):
            name = f"{module}.{name}"
        yield f"{name}: {text}\n" if text else f"{name}\n"
        yield from _notes(error)
        if issubclass(kind, BaseExceptionGroup):
            for number, member in enumerate(_members_of(error), 1):
                if len(self._seen) >= _MAX_EXCEPTIONS:
                    yield "  … more exceptions are in this group …\n"
                    break
                yield f"  --- exception {number} of the group ---\n"
                for lines in self.chain(member, None):
                    yield from (f"  {line}" for line in lines.splitlines(keepends=True))


def _notes(error: BaseException) -> list[str]:
    notes = attribute(error, "__notes__")
    if not issubclass(type(notes), list):
        return []
    # By the list's own method: a subclass may never end.
    return [f"{guarded(partial(_note, note), NO_TEXT)}\n" for note in list.__getitem__(notes, slice(_MAX_NOTES))]


def _note(note: object) -> str:
    return exact(str(note))[:_NOTE_LIMIT]


def _frames(tb: TracebackType) -> Iterator[str]:
    """Two lines per frame, without those that led to the handler, and without the middle of many frames."""
    shown = at = cast("TracebackType | None", tb)
    while at is not None:
        if at.tb_frame.f_code.co_filename in _OWN_FRAMES:
            shown = at.tb_next
        at = at.tb_next
    outer: list[TracebackType] = []
    inner: deque[TracebackType] = deque(maxlen=_INNER_FRAMES)
    count = 0
    while shown is not None:
        if count < _OUTER_FRAMES:
            outer.append(shown)
        else:
            inner.append(shown)
        count += 1
        shown = shown.tb_next
    if not inner:
        yield _known_lines(outer)
        return
    yield from _lines(outer)
    if (left_out := count - len(outer) - len(inner)) > 0:
        yield f"  [{left_out} frames are not shown]\n"
    yield from _lines(inner)


def _known_lines(frames: list[TracebackType]) -> str:
    codes = [tb.tb_frame.f_code for tb in frames]
    places = tuple([part for code, tb in zip(codes, frames, strict=True) for part in (id(code), tb.tb_lineno)])
    found = _known.get(places)
    if found is not None:
        return found[1]
    text = "".join(_lines(frames))
    if len(text) <= _MAX_KNOWN_TEXT:
        if len(_known) >= _MAX_KNOWN:
            _known.clear()
        _known[places] = codes, text
    return text


def _lines(frames: Iterable[TracebackType]) -> Iterator[str]:
    last, times = "", 0
    for tb in frames:
        code = tb.tb_frame.f_code
        line = f'  File "{code.co_filename}", line {tb.tb_lineno}, in {code.co_name}\n'
        if line != last:
            yield from _counted(times)
            last, times = line, 0
        times += 1
        if times <= _REPEATS_SHOWN:
            yield line + _source(tb)
    yield from _counted(times)


def _counted(times: int) -> Iterator[str]:
    if (more := times - _REPEATS_SHOWN) > 0:
        yield f"  [Previous line repeated {more} more times]\n"


def _source(tb: TracebackType) -> str:
    # The file may have changed, and a module may have its own loader.
    line = guarded(
        lambda: linecache.getline(tb.tb_frame.f_code.co_filename, tb.tb_lineno, tb.tb_frame.f_globals).strip(), ""
    )
    return f"    {line[:_LINE_LIMIT]}\n" if line else ""
