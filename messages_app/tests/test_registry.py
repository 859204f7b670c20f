"""Which callable handles which type."""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from messages_app import registry
from messages_app.envelope import Message
from messages_app.registry import HandlerSpec, RegistrationError, handler


@pytest.fixture
def clean() -> Iterator[None]:
    yield
    registry.forget("order.created")


def handle(message: Message) -> None: ...


def test_the_demo_handler_is_found_by_itself() -> None:
    assert registry.get("demo") is not None
    assert "demo" in registry.types()


def test_nobody_handles_an_unknown_type() -> None:
    assert registry.get("nobody.handles") is None


@pytest.mark.usefixtures("clean")
def test_a_handler_is_registered_with_its_breaker_and_time_limit() -> None:
    handler("order.created", breaker="orders-db", timeout=5)(handle)

    assert registry.get("order.created") == HandlerSpec("order.created", handle, "orders-db", 5)


@pytest.mark.usefixtures("clean")
def test_two_handlers_for_one_type_are_refused() -> None:
    handler("order.created")(handle)

    def other(message: Message) -> None: ...

    with pytest.raises(RegistrationError, match=r"order\.created"):
        handler("order.created")(other)


def yields(message: Message) -> Iterator[None]:
    yield


async def yields_slowly(message: Message) -> AsyncIterator[None]:
    yield


class Yields:
    def __call__(self, message: Message) -> Iterator[None]:
        yield

    def handle(self, message: Message) -> Iterator[None]:
        yield


@functools.wraps(yields)
def decorated(message: Message) -> Any:
    return yields(message)


@pytest.mark.parametrize(
    "function",
    [
        yields, yields_slowly, Yields(), Yields().handle, decorated, functools.partial(yields),
        functools.partial(functools.partial(decorated)), functools.partial(Yields()), functools.lru_cache(yields),
        contextlib.contextmanager(yields), functools.partial(yields_slowly),
    ],
    ids=[
        "function", "async", "callable", "method", "decorated", "partial", "partial of partial", "partial of callable",
        "cached", "context manager", "partial async",
    ],
)  # fmt: skip
def test_a_generator_is_refused_however_it_is_wrapped(function: Any) -> None:
    with pytest.raises(RegistrationError, match=rf"order\.created.*ields.*{__file__}:\d+.*generator"):
        handler("order.created")(function)

    assert registry.get("order.created") is None


class Handles:
    async def __call__(self, message: Message) -> None: ...


@types.coroutine
def awaits(message: Message) -> Iterator[None]:
    yield


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(
    "function",
    [Handles(), functools.partial(Handles()), awaits, lambda message: None],
    ids=["callable", "partial", "async", "lambda"],
)
def test_what_can_be_awaited_is_no_generator(function: Any) -> None:
    assert handler("order.created")(function) is function


@pytest.mark.parametrize("name", ["", "Order", "1st", "a" * 65, "a b", "a\n", "order:created"])
def test_malformed_types_are_refused(name: str) -> None:
    with pytest.raises(RegistrationError):
        handler(name)


@pytest.mark.parametrize("timeout", [0, -1, 3601, float("nan")])
def test_time_limits_out_of_range_are_refused(timeout: float) -> None:
    with pytest.raises(RegistrationError):
        handler("order.created", timeout=timeout)


class TestAChosenBreaker:
    """A handler whose breaker depends on the payload."""

    @pytest.fixture(autouse=True)
    def spec(self, clean: None) -> HandlerSpec:
        def choose(payload: dict[str, str]) -> str | None:
            return f"http:{payload['to']}" if payload["to"] else None

        handler("order.created", breaker=choose, breakers=lambda: {"http:a", "http:b"})(handle)
        found = registry.get("order.created")
        assert found is not None
        return found

    def test_it_is_the_payloads(self, spec: HandlerSpec) -> None:
        assert [spec.breaker_of({"to": to}) for to in ("a", "b", "")] == ["http:a", "http:b", None]
        assert sorted(spec.breaker_names()) == ["http:a", "http:b"]

    def test_no_payload_makes_a_new_name(self, spec: HandlerSpec) -> None:
        assert spec.breaker_of({"to": "elsewhere"}) is None

    def test_a_payload_that_makes_no_sense_has_none(self, spec: HandlerSpec) -> None:
        assert spec.breaker_of(["not", "an", "object"]) is None


def test_a_fixed_breaker_is_every_messages() -> None:
    spec = HandlerSpec("t", handle, "orders-db")
    assert (spec.breaker_of(None), spec.breaker_names()) == ("orders-db", ("orders-db",))
    assert (HandlerSpec("t", handle).breaker_of({}), HandlerSpec("t", handle).breaker_names()) == (None, ())


def test_names_and_choice_come_together() -> None:
    with pytest.raises(RegistrationError, match="breakers"):
        handler("order.created", breaker=lambda payload: "a")
    with pytest.raises(RegistrationError, match="breakers"):
        handler("order.created", breaker="a", breakers=lambda: ("a",))
