"""Exceptions that are hostile in every answer they give: each is a failure with its class, and is asked once."""

from __future__ import annotations

import enum
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from messages_app import exception_text
from messages_app.domain.records import Failed, Outcome
from messages_app.envelope import Message
from messages_app.failures import ErrorKind, HandlerError, PermanentError, classify
from messages_app.tests.handling import a_claimed, handling
from messages_app.work.runner import READ_S, Attempt, Runner


class Refuses:
    """A property that raises what it is told to."""

    def __init__(self, raised: BaseException | type[BaseException]) -> None:
        self.raised = raised

    def __get__(self, *_: object) -> Any:
        raise self.raised

    def __set__(self, *_: object) -> None:
        raise self.raised


def hostile(base: type[BaseException] = Exception, **attributes: Any) -> BaseException:
    error: BaseException = type("HostileError", (base,), attributes)("x")
    return error


def gives(value: Any) -> Callable[..., Any]:
    return lambda *_: value


def raises(raised: BaseException | type[BaseException]) -> Callable[..., Any]:
    def method(*_: object) -> Any:
        raise raised

    return method


class EvilText(str):
    def __str__(self) -> str:
        return self

    encode = __len__ = __bool__ = __getitem__ = __format__ = __eq__ = raises(KeyboardInterrupt)
    __hash__ = None  # type: ignore[assignment]


class EvilNumber(int):
    __lt__ = __gt__ = __le__ = __ge__ = __eq__ = __ne__ = __float__ = __mul__ = raises(SystemExit)
    __hash__ = None  # type: ignore[assignment]


class EndlessList(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        while True:
            yield "again"


class Code(enum.StrEnum):
    QUOTA = "QUOTA_EXCEEDED"


def two_that_name_each_other() -> BaseException:
    one, other = OSError("one"), OSError("other")
    one.reason, other.reason = other, one  # type: ignore[attr-defined]
    one.__cause__, other.__cause__ = other, one
    return one


def its_own_cause() -> BaseException:
    error = ValueError("me")
    error.__cause__ = error
    return error


def a_long_chain() -> BaseException:
    error = ValueError("first")
    for number in range(3000):
        following = ValueError(f"link {number}")
        following.__cause__ = error
        error = following
    return error


def a_deep_group() -> BaseException:
    error: Exception = ValueError("leaf")
    for _ in range(60):
        error = ExceptionGroup("group", [error, OSError(5, "io")])
    return error


def of_an_evil_class() -> BaseException:
    names = ("__mro__", "__name__", "__dict__", "__eq__", "__hash__", "__instancecheck__", "__subclasscheck__")
    meta = type("EvilMeta", (type,), {name: property(raises(RuntimeError)) for name in names})
    error: BaseException = meta("HostileError", (Exception,), {})("x")
    return error


BASES = (Exception, OSError, HandlerError, PermanentError, BaseException, SyntaxError)
ANSWERS = (
    "reason", "retry_after", "kind", "error_type", "__notes__", "__cause__", "__context__", "__suppress_context__",
    "__traceback__", "__class__", "__dict__", "args", "errno", "code", "response", "message",
)  # fmt: skip


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, RecursionError])
@pytest.mark.parametrize(
    "name", [*ANSWERS, "__str__", "__repr__", "__getattribute__", "__hash__", "__eq__", "__bool__"]
)
def test_an_exception_that_refuses_an_answer_is_a_failure_of_its_class(name: str, raised: type[BaseException]) -> None:
    for base in BASES:
        if name == "__str__" or name == "__getattribute__" or name.strip("_") in ("repr", "hash", "eq", "bool"):
            error = hostile(base, **{name: raises(raised)})
        else:
            kind: Any = type("HostileError", (base,), {name: Refuses(raised)})
            error = kind.__new__(kind, "x")  # HandlerError sets some of these itself

        failure = classify(error)

        assert "HostileError" in failure.reason + failure.stack
        assert failure.retry_after_ms is None
        assert isinstance(failure.kind, ErrorKind)


@pytest.mark.parametrize(
    "error",
    [
        hostile(__str__=gives(42)),
        hostile(__str__=gives(EvilText("text"))),
        hostile(__notes__=17),
        hostile(__notes__=EndlessList(["note"])),
        hostile(__notes__=[object(), hostile(__str__=raises(SystemExit)), "n" * 10**6]),
        hostile(retry_after=EvilNumber(5)),
        hostile(HandlerError, error_type=EvilText("X"), kind=EvilText("x")),
        hostile(HandlerError, error_type=429, kind=object()),
        hostile(errno=EvilNumber(5)),
        hostile(__cause__=17, __context__="text", __traceback__=object()),
        hostile(__module__=None),
        hostile(__module__=EvilText("module")),
        hostile(ExceptionGroup, __new__=lambda kind, text: ExceptionGroup.__new__(kind, text, [KeyError()])),
        of_an_evil_class(),
        two_that_name_each_other(),
        its_own_cause(),
        a_long_chain(),
        a_deep_group(),
        ExceptionGroup("wide", [ValueError(f"v{number}") for number in range(20_000)]),
        RuntimeError("x" * 10**7),
        RuntimeError("\n".join("line" for _ in range(400_000))),
        RuntimeError("half \ud83e of an emoji, \x00 and \x1b[2J"),
        SyntaxError("bad", ("f\x00ile", -5, 10**9, "te\nxt")),
        type("N" * 10**6, (Exception,), {})("long name"),
    ],
    ids=lambda error: type.__repr__(type(error))[:60],
)  # fmt: skip
def test_odd_huge_and_circular_exceptions_are_bounded(error: BaseException) -> None:
    failure = classify(error)

    assert failure.reason
    assert len(failure.reason.encode()) <= 8 * 1024
    assert len(failure.stack.encode()) <= 32 * 1024
    assert failure.retry_after_ms is None


def test_what_an_error_says_of_itself_may_be_text_of_another_class() -> None:
    failure = classify(hostile(HandlerError, error_type=Code.QUOTA, kind="permanent"))

    assert (failure.error_type, failure.kind) == ("QUOTA_EXCEEDED", ErrorKind.PERMANENT)


def test_each_question_is_asked_once() -> None:
    asked: Counter[str] = Counter()

    class Counts:
        def __init__(self, name: str) -> None:
            self.name = name

        def __get__(self, *_: object) -> Any:
            asked[self.name] += 1

    class Error(OSError):
        reason, retry_after, __notes__ = Counts("reason"), Counts("retry_after"), Counts("__notes__")

        def __str__(self) -> str:
            asked["__str__"] += 1
            return "text"

    try:
        raise Error from ValueError("cause")
    except Error as error:
        failure = classify(error)

    assert asked == {"reason": 1, "retry_after": 1, "__notes__": 1, "__str__": 1}
    assert failure.stack.count("Error: text") == 1


def test_a_chain_reads_as_python_prints_it() -> None:
    def failing() -> None:
        raise KeyError("k")

    try:
        try:
            failing()
        except KeyError as cause:
            cause.add_note("said beside")
            try:
                raise RuntimeError("because") from cause
            except RuntimeError:
                raise ValueError("meanwhile")  # noqa: B904
    except ValueError as error:
        ours = classify(error).stack
        printed = "".join(traceback.format_exception(error))

    assert ours.splitlines() == [
        line for line in printed.splitlines() if not line.strip() or set(line.strip()) - set("^~")
    ]


def run(function: Callable[[Message], Any], attempt_limit_s: float = 30) -> tuple[Outcome | None, Attempt]:
    with handling(function, timeout=attempt_limit_s) as type_:
        attempt = Attempt(a_claimed(type=type_), time.monotonic())
        return Runner("w-1").run(attempt), attempt


def test_reading_an_exception_has_a_time_limit_of_its_own() -> None:
    deadlines: list[float] = []

    class Error(Exception):
        def __str__(self) -> str:
            deadlines.append(current[0].deadline - time.monotonic())
            return "text"

    current: list[Attempt] = []

    def failing(message: Message) -> None:
        raise Error

    with handling(failing, timeout=3600) as type_:
        current.append(Attempt(a_claimed(type=type_), time.monotonic()))
        Runner("w-1").run(current[0])

    assert deadlines[0] <= READ_S


def test_one_whose_reading_is_interrupted_is_a_failure_of_its_class() -> None:
    class SlowError(PermanentError):
        """Slow."""

        def __str__(self) -> str:
            # What the watch does when the time for reading is over.
            assert current[0].interrupt("timeout")
            while True:
                time.sleep(0.001)

    current: list[Attempt] = []

    def failing(message: Message) -> None:
        raise SlowError

    with handling(failing) as type_:
        current.append(Attempt(a_claimed(type=type_), time.monotonic()))
        outcome = Runner("w-1").run(current[0])

    assert isinstance(outcome, Failed)
    assert '"errorType":"VALIDATION_ERROR"' in outcome.error
    assert "SlowError" in outcome.error
    assert outcome.delay_ms is None


def test_one_whose_reading_is_taken_over_is_a_failure_of_its_class() -> None:
    class StuckError(HandlerError):
        error_type = "RATE_LIMIT_ERROR"

    attempt = Attempt(a_claimed(), time.monotonic())
    attempt.raised = StuckError

    outcome = Runner("w-1").time_out(attempt)

    assert isinstance(outcome, Failed)
    assert '"errorType":"RATE_LIMIT_ERROR","errorKind":"transient"' in outcome.error
    assert "StuckError" in outcome.error


class EvilDict(dict[str, Any]):
    items = raises(KeyboardInterrupt)


@pytest.mark.parametrize("value", [EvilDict(a=1), [EvilDict(a=1)], {"n": hostile(__repr__=raises(SystemExit))}])
def test_a_result_whose_code_raises_anything_is_not_kept(value: Any) -> None:
    outcome, _ = run(lambda message: value)

    assert "was not kept" in getattr(outcome, "result", "")


@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt])
def test_a_choice_of_breaker_that_raises_is_a_failed_attempt(raised: type[BaseException]) -> None:
    with handling(lambda message: None, breaker=raises(raised), breakers=lambda: ()) as type_:
        outcome = Runner("w-1").run(Attempt(a_claimed(type=type_), time.monotonic()))

    assert isinstance(outcome, Failed)
    assert raised.__name__ in outcome.error


def failing(source: str, text: str, file: str = "<generated>") -> str:
    """The stack of an exception that generated code raises."""
    names: dict[str, Any] = {"text": text}
    with pytest.raises(ValueError, match=text) as raised:
        exec(compile(source, file, "exec"), names)  # noqa: S102 - code that only this test knows
    return classify(raised.value).stack


def test_the_known_text_of_a_place_is_used_for_that_place_only() -> None:
    here = failing("def first():\n    raise ValueError(text)\nfirst()", "one")
    again = failing("def first():\n    raise ValueError(text)\nfirst()", "two")
    elsewhere = failing("def other():\n    raise ValueError(text)\nother()", "one")
    later = failing("def first():\n    pass\n    raise ValueError(text)\nfirst()", "one")

    assert here.replace("one", "two") == again
    assert here.replace("first", "other") == elsewhere
    assert here.replace("line 2, in first", "line 3, in first").replace("line 3, in <", "line 4, in <") == later


def test_a_limited_number_of_places_is_known() -> None:
    for number in range(300):
        stack = failing(f"def f{number}():\n    raise ValueError(text)\nf{number}()", "x")
        assert f"in f{number}\n" in stack

    assert len(exception_text._known) <= exception_text._MAX_KNOWN


def test_a_long_text_of_frames_is_not_kept() -> None:
    before = len(exception_text._known)

    assert "x" * 9000 in failing("raise ValueError(text)", "one", "x" * 9000)

    assert len(exception_text._known) <= before + 1  # that of this test
    assert all(len(text) <= exception_text._MAX_KNOWN_TEXT for _, text in exception_text._known.values())
