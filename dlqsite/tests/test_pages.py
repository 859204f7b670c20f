"""What the console shows instead of a page that cannot be shown."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from breaker_app.errors import BreakerNotFound
from breaker_app.errors import StoreUnavailable as BreakersUnavailable
from dlq_app.domain.errors import StoreUnavailable as LettersUnavailable
from dlqsite import pages


def request(path: str = "/admin/dlq_app/deadletter/?q=x", **more: Any) -> HttpRequest:
    found = RequestFactory().get(path, **more)
    found.user = AnonymousUser()
    return found


def answer(error: Exception, path: str = "/admin/dlq_app/deadletter/?q=x") -> Any:
    return pages.ConsoleErrors(lambda _: HttpResponse()).process_exception(request(path), error)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (LettersUnavailable(), "MongoDB is not responding"),
        (BreakersUnavailable(retry_after=1), "Redis is not responding"),
    ],
)
def test_a_store_that_is_away_becomes_a_page_that_says_what_that_means(error: Exception, says: str) -> None:
    told = answer(error)

    assert (told.status_code, told["Retry-After"]) == (503, "5")
    assert says in told.content.decode()
    assert "/admin/dlq_app/deadletter/?q=x" in told.content.decode()


def test_what_an_app_does_not_find_is_not_found() -> None:
    assert answer(BreakerNotFound("There is no circuit breaker with this name.")).status_code == 404


def test_what_nobody_foresaw_is_logged_and_left_to_the_500_page(caplog: pytest.LogCaptureFixture) -> None:
    assert answer(ZeroDivisionError("secret detail")) is None

    assert "unhandled error at /admin/dlq_app/deadletter/" in caplog.text
    told = pages.broken(request())
    assert told.status_code == 500
    assert "secret detail" not in told.content.decode()


def test_the_api_answers_for_itself() -> None:
    assert answer(LettersUnavailable(), "/api/dlq") is None
