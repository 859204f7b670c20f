"""Traces and errors that really arrive at receivers, without payloads; and nothing at all while both are off."""

from __future__ import annotations

import gzip
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import pytest
from django.conf import settings as django_settings
from pymongo import MongoClient
from pytest_django import Settings
from redis import Redis

from console.trace_links import template_problem, trace_url
from dlqsite import checks, reporting
from dlqsite.testing import TEST_DATABASE
from dlqsite.tests.receiver import Receiver
from dlqsite.tests.traced_run import PARENT, PAYLOAD
from processes import tracing

TRACE = PARENT.split("-")[1]


class Collector:
    """A receiver of OTLP over HTTP, and of Sentry's envelopes."""

    def __enter__(self) -> Collector:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        collector = self
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.errors: list[dict[str, Any]] = []
        #: Everything that came, decompressed.
        self.bytes = b""

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers["Content-Encoding"] == "gzip":
                    body = gzip.decompress(body)
                collector.bytes += body
                if self.path == "/v1/traces":
                    collector.read_spans(ExportTraceServiceRequest.FromString(body))
                elif self.path == "/api/7/envelope/":
                    collector.read_envelope(body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        port = self._server.server_address[1]
        self.url, self.dsn = f"http://127.0.0.1:{port}", f"http://key@127.0.0.1:{port}/7"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def read_spans(self, request: Any) -> None:
        for group in request.resource_spans:
            self.resources.append({one.key: one.value.string_value for one in group.resource.attributes})
            self.spans += [span for scope in group.scope_spans for span in scope.spans]

    def read_envelope(self, body: bytes) -> None:
        _, *lines = body.splitlines()
        for head, item in pairwise(lines):
            if json.loads(head).get("type") == "event":
                self.errors.append(json.loads(item))

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass(frozen=True)
class Ran:
    """What ``traced_run`` printed and logged, and what was sent meanwhile."""

    code: int
    seen: dict[str, Any]
    log: str
    collector: Collector
    receiver: Receiver


@pytest.fixture(scope="module")
def on(redis_url: str, mongodb_url: str) -> Ran:
    """A run with traces and errors on."""
    return run(is_on=True, redis_url=redis_url, mongodb_url=mongodb_url)


def run(*, is_on: bool, redis_url: str, mongodb_url: str) -> Ran:
    with Redis.from_url(redis_url) as redis, MongoClient[dict[str, Any]](mongodb_url) as mongo:
        redis.flushall()
        for name in mongo[TEST_DATABASE].list_collection_names():
            mongo[TEST_DATABASE][name].delete_many({})
    with Receiver(retry_after="0") as receiver, Collector() as collector:
        given = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "shop"} if is_on else {}
        dsn = {"SENTRY_DSN": collector.dsn} if is_on else {}
        done = _run(receiver.url, {**given, **dsn})
    return Ran(done.returncode, json.loads(done.stdout), done.stderr, collector, receiver)


def _run(url: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dlqsite.tests.traced_run", url],
        cwd=django_settings.BASE_DIR,
        env={**{name: value for name, value in os.environ.items() if "OTEL" not in name}, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def values(span: Any) -> dict[str, Any]:
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


@pytest.mark.redis
@pytest.mark.mongo
def test_one_trace_goes_from_intake_over_attempts_to_the_replay(on: Ran) -> None:
    collector = on.collector

    assert on.seen["outcomes"] == ["failed", "given_up", "completed"]
    assert "traces_" not in on.log
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    names = {span.span_id.hex(): span.name for span in collector.spans}
    family = sorted((span.name, names.get(span.parent_span_id.hex(), "")) for span in collector.spans)
    assert family == [
        ("POST", "process http.deliver"),
        ("POST", "process http.deliver"),
        ("POST", "process http.deliver"),
        ("POST /api/messages", ""),
        ("dead letter http.deliver", "POST /api/messages"),
        ("process http.deliver", "POST /api/messages"),
        ("process http.deliver", "POST /api/messages"),
        ("process http.deliver", "replay http.deliver"),
        ("replay http.deliver", "POST /api/messages"),
    ]
    by_name = {span.name: span for span in collector.spans}
    assert by_name["POST /api/messages"].parent_span_id.hex() == PARENT.split("-")[2]
    attempts = [values(span) for span in collector.spans if span.name == "process http.deliver"]
    assert [one["dlq.outcome"] for one in attempts] == ["retry", "dead", "succeeded"]
    assert [one.get("error.type") for one in attempts] == ["SERVICE_UNAVAILABLE", "VALIDATION_ERROR", None]
    assert {one["messaging.message.id"] for one in attempts} == {"m1"}
    # The letter and the receiver know the same trace.
    assert on.seen["letter"].startswith(f"00-{TRACE}-")
    deliveries = [span.span_id.hex() for span in collector.spans if span.name == "POST"]
    assert [one.headers["traceparent"] for one in on.receiver.seen] == [f"00-{TRACE}-{one}-01" for one in deliveries]
    assert collector.resources[0]["service.name"] == "shop"
    assert collector.resources[0]["service.version"] == django_settings.VERSION


@pytest.mark.redis
@pytest.mark.mongo
def test_unexpected_errors_arrive_also_from_a_process_that_ends_at_once(on: Ran) -> None:
    assert on.code == 1
    assert [one["logentry"]["message"] for one in on.collector.errors] == ["unhandled error in %s", "thread_died"]
    for error in on.collector.errors:
        (raised,) = error["exception"]["values"]
        assert raised["type"] == "RuntimeError"
        assert raised["value"].startswith("broken with 1 fields")
        assert raised["stacktrace"]["frames"][-1]["function"] == "broken"
        assert error["release"] == f"dlq@{django_settings.VERSION}"
        assert error["environment"] == "local"
    assert on.collector.errors[1]["extra"]["thread_name"] == "loop"


@pytest.mark.redis
@pytest.mark.mongo
def test_nothing_that_is_sent_has_a_payload_a_request_or_a_secret(on: Ran) -> None:
    for private in (PAYLOAD.encode(), b"/hook", b"hunter22", b'"vars":'):
        assert private not in on.collector.bytes, private
    for error in on.collector.errors:
        assert not error.keys() & {"request", "user", "breadcrumbs", "contexts", "modules"}


@pytest.mark.redis
@pytest.mark.mongo
def test_while_off_the_trace_is_kept_and_nothing_is_imported(redis_url: str, mongodb_url: str) -> None:
    off = run(is_on=False, redis_url=redis_url, mongodb_url=mongodb_url)

    assert off.code == 0, off.log
    assert off.seen["outcomes"] == ["failed", "given_up", "completed"]
    assert off.seen["letter"] == PARENT
    assert [one.headers["traceparent"] for one in off.receiver.seen] == [PARENT] * 3
    assert off.collector.bytes == b""
    # The driver of Redis imports OpenTelemetry's metrics when they are installed, on its own.
    unwanted = ("opentelemetry.sdk.trace", "opentelemetry.exporter", "opentelemetry.proto", "processes.spans", "sentry")
    assert [name for name in off.seen["modules"] if name.startswith(unwanted)] == []


def test_an_outage_of_the_collector_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    from processes.spans import outages_logged

    caplog.set_level(logging.INFO, "processes.spans")
    with Collector() as collector:
        inner = OTLPSpanExporter("http://127.0.0.1:9/v1/traces", timeout=0.1)
        exporter = outages_logged(inner)
        exporter.export([])
        exporter.export([])
        inner._client._endpoint = f"{collector.url}/v1/traces"
        exporter.export([])

    (away, back) = caplog.records
    assert (away.message, back.message) == ("traces_away", "traces_back")
    assert "spans" in vars(away)["why"]


@pytest.fixture
def _switch() -> Iterator[None]:
    yield
    tracing.switch(exporter_name="", endpoint="", protocol="", is_disabled=False, about={})


@pytest.mark.usefixtures("_switch")
@pytest.mark.parametrize(
    ("values", "is_on", "problem"),
    [
        ({}, False, ""),
        ({"endpoint": "http://collector:4318"}, True, ""),
        ({"exporter_name": "otlp"}, True, ""),
        ({"exporter_name": "console"}, True, ""),
        ({"exporter_name": "none", "endpoint": "http://collector:4318"}, False, ""),
        ({"endpoint": "http://collector:4318", "is_disabled": True}, False, ""),
        ({"exporter_name": "zipkin"}, False, "OTEL_TRACES_EXPORTER"),
        ({"endpoint": "https://user:pass@[::1]:4318/v1/traces"}, True, ""),
        ({"endpoint": "collector:4318"}, False, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"endpoint": "http://"}, False, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"endpoint": "http://[::1"}, False, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"endpoint": "http://collector:99999"}, False, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"endpoint": "ftp://user:hunter2@collector"}, False, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"endpoint": "http://collector:4317", "protocol": "grpc"}, False, "OTEL_EXPORTER_OTLP_PROTOCOL"),
    ],
)
def test_the_standard_variables_switch_traces_on_and_off(values: dict[str, Any], is_on: bool, problem: str) -> None:
    given = {"exporter_name": "", "endpoint": "", "protocol": "", "is_disabled": False, "about": {}, **values}

    found = tracing.switch(**given)

    assert tracing.is_on == is_on
    assert found.startswith(problem)
    assert bool(found) == bool(problem)
    assert "hunter2" not in found


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("TRACING_PROBLEM", "OTEL_TRACES_EXPORTER is 'x'", "dlqsite.E007"),
        ("TRACE_URL_TEMPLATE", "https://tracing.example/", "dlqsite.E008"),
        ("SENTRY_PROBLEM", "SENTRY_DSN is not valid", "dlqsite.E009"),
    ],
)
def test_wrong_values_are_errors_with_a_hint(settings: Settings, name: str, value: str, code: str) -> None:
    assert checks.check_tracing(None) == []
    setattr(settings, name, value)

    (found,) = checks.check_tracing(None)

    assert found.id == code
    assert found.hint


@pytest.mark.parametrize("dsn", ["https://host/1", "key", "https://key@host:x/1", "https://key@[::1/1"])
def test_a_malformed_dsn_is_a_problem_and_ends_no_process(dsn: str) -> None:
    assert reporting.switch(dsn, environment="test", release="1").startswith("SENTRY_DSN is not valid")


@pytest.mark.parametrize(
    "template",
    [
        "https://tracing.example/trace/{trace_id}",
        "http://localhost:16686/trace/{trace_id}?uiFind=a#b",
        "https://grafana.example/explore?left=%7B%22query%22:%22{trace_id}%22%7D",
    ],
)
def test_a_template_links_to_the_trace(settings: Settings, template: str) -> None:
    settings.TRACE_URL_TEMPLATE = template

    assert template_problem(template) == ""
    assert trace_url(TRACE) == template.replace("{trace_id}", TRACE)
    assert trace_url("") == ""


@pytest.mark.parametrize(
    "template",
    [
        "https://tracing.example/",
        "https://{trace_id}.example/",
        "https://tracing.example/{trace_id}/{trace_id}",
        "javascript:alert('{trace_id}')",
        "https:///{trace_id}",
        "https://tracing.example/{trace_id}/{other}",
        'https://tracing.example/{trace_id}" onclick="',
        "//tracing.example/{trace_id}",
        "https://[::1/{trace_id}",
        "https://tracing.example:99999/{trace_id}",
        "https://user:hunter2@tracing.example/{trace_id}",
    ],
)
def test_a_template_that_is_no_address_is_refused_and_not_linked(settings: Settings, template: str) -> None:
    settings.TRACE_URL_TEMPLATE = template

    assert template_problem(template)
    assert trace_url(TRACE) == ""
