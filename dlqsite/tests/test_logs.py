"""Log lines about requests of strangers."""

from __future__ import annotations

import json
import logging

import pytest
import structlog
from django.test import Client


def lines_of(records: list[logging.LogRecord], logger: str) -> list[str]:
    """What the log of this process contains of a logger."""
    (formatter,) = {
        handler.formatter
        for handler in logging.getLogger().handlers
        if isinstance(handler.formatter, structlog.stdlib.ProcessorFormatter)
    }
    return [formatter.format(record) for record in records if record.name.startswith(logger)]


@pytest.mark.django_db
@pytest.mark.parametrize("host", ["evil.example", 'x"><script>', "x:99999999", ".."])
@pytest.mark.parametrize("path", ["/admin/", "/api/dlq"])
def test_an_unknown_host_makes_one_line_without_a_stack(host: str, path: str, caplog: pytest.LogCaptureFixture) -> None:
    answer = Client(raise_request_exception=False).get(path, headers={"Host": host})

    assert answer.status_code == 400
    (line,) = lines_of(caplog.records, "django.security")
    found = json.loads(line)
    assert (found["level"], found["logger"]) == ("warning", "django.security.DisallowedHost")
    assert "Invalid HTTP_HOST header" in found["event"]
    assert found.keys() & {"exception", "exc_info", "request"} == set()
