"""``/metrics``: complete, bounded, current, and answered whatever is unavailable."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry
from pytest_django import Settings

from breaker_app import conf as breaker_conf
from breaker_app import services as breaker_services
from dlq_app.services import figures, letter_counts
from dlq_app.store import backup
from dlqsite.health import report
from dlqsite.logs import ROUTE
from dlqsite.metrics import collector, http, parts
from dlqsite.metrics.collector import SystemCollector
from dlqsite.metrics.families import FAMILIES
from dlqsite.metrics.http import Timed
from dlqsite.metrics.samples import Samples
from dlqsite.tests import scenes
from dlqsite.tests.people import a_key, with_key
from dlqsite.tests.test_docs import DOCS
from messages_app import registry
from messages_app.domain.errors import StoreUnavailable
from messages_app.store import presence
from messages_app.store.ledger import ledger
from messages_app.store.measurements import measurements
from messages_app.tests.ledgers import acceptance
from messages_app.work.measuring import Sender
from notify_app.models import Total
from processes.measured import measured

Series = dict[tuple[str, tuple[str, ...]], float]


def parsed(text: str) -> Series:
    """Samples by name and label values, in the order of the labels' names."""
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(series: Series, name: str) -> dict[tuple[str, ...], float]:
    return {labels: value for (sample, labels), value in series.items() if sample == name}


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    scenes.forget()
    measured.take()
    yield
    scenes.forget()
    measured.take()


class TestTheCollector:
    def samples(self, **given: Callable[[], Samples]) -> Samples:
        return SystemCollector(given, limit_s=0.5).read()

    def a_part(self) -> Samples:
        found = Samples()
        found.put("dlq_messages_running", 3)
        return found

    def test_a_part_that_hangs_or_fails_leaves_the_others(self) -> None:
        release = threading.Event()

        def hang() -> Samples:
            release.wait(30)
            return self.a_part()

        def away() -> Samples:
            raise StoreUnavailable("secret address")

        def broken() -> Samples:
            raise ZeroDivisionError

        try:
            found = self.samples(hangs=hang, away=away, broken=broken, ledger=self.a_part)
        finally:
            release.set()

        assert found.values["dlq_collector_up"] == {("hangs",): 0, ("away",): 0, ("broken",): 0, ("ledger",): 1}
        assert found.values["dlq_messages_running"] == {(): 3}
        assert "dlq_objective_ratio" in found.values

    def test_parts_that_hang_for_long_do_not_stop_later_scrapes(self) -> None:
        release = threading.Event()

        def hang() -> Samples:
            release.wait(30)
            return Samples()

        system = SystemCollector({"hangs": hang, "ledger": self.a_part}, limit_s=0.2)
        try:
            for _ in range(3):
                assert system.read().values["dlq_collector_up"][("ledger",)] == 1
        finally:
            release.set()

    def test_an_outage_is_logged_once(self, caplog: pytest.LogCaptureFixture) -> None:
        def away() -> Samples:
            raise StoreUnavailable

        system = SystemCollector({"ledger": away})
        for _ in range(3):
            system.read()

        assert [record.message for record in caplog.records] == ["metrics_part_away"]


def test_every_metric_follows_the_conventions() -> None:
    for family in FAMILIES.values():
        assert re.fullmatch(r"dlq_[a-z_]+", family.name)
        assert (family.kind == "counter") == family.name.endswith("_total"), family.name
        assert family.help.endswith(".")


def test_the_page_has_a_row_for_every_metric_and_part_and_no_other() -> None:
    rows = dict(re.findall(r"^\| `(dlq_\w+)` \| (.+?) \|$", DOCS["metrics.md"], re.MULTILINE))

    assert set(rows) == set(FAMILIES)
    for family in FAMILIES.values():
        kind, labels, _ = rows[family.name].split(" | ", 2)
        assert kind == family.kind
        assert tuple(re.findall(r"`(\w+)`", labels)) == family.labels
    assert set(re.findall(r"^\| `([a-z_]+)` \| (?:Redis|MongoDB|database)", DOCS["metrics.md"], re.MULTILINE)) == set(
        parts.PARTS
    )


def answered(path: str, status: str, route: str = "", method: str = "GET") -> None:
    """One request through the wrapper."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if route:
            environ[ROUTE] = route
        start_response(status, [])
        return [b""]

    list(Timed(application)({"PATH_INFO": path, "REQUEST_METHOD": method}, lambda *_: None))


@pytest.mark.redis
class TestHttp:
    def counted(self) -> dict[str, int]:
        return {key: n for key, n in measured.take().items() if key.startswith(http.REQUESTS)}

    def test_a_request_counts_by_its_pattern(self) -> None:
        answered("/api/messages", "202 Accepted", method="POST")
        answered("/api/dlq/m-1", "404 Not Found", route="api/dlq/<str:message_id>")

        assert self.counted() == {
            "http_requests\tPOST\tapi/messages\t202": 1,
            "http_requests\tGET\tapi/dlq/<str:message_id>\t404": 1,
        }

    def test_clients_cannot_make_up_series(self) -> None:
        for number in range(20):
            answered(f"/no/such/{number}", "404 Not Found", method=f"M{number}")

        assert self.counted() == {"http_requests\tother\tother\t404": 20}

    def test_a_request_that_fails_is_counted_as_500_and_fails_as_before(self) -> None:
        def broken(*_: Any) -> Any:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            Timed(broken)({"PATH_INFO": "/", "REQUEST_METHOD": "GET"}, lambda *_: None)

        assert self.counted() == {"http_requests\tGET\tother\t500": 1}


@pytest.mark.redis
@pytest.mark.mongo
@pytest.mark.django_db(transaction=True)
class TestTheEndpoint:
    @pytest.fixture(autouse=True)
    def _stores(self, redis_client: Any, mongo_db: Any) -> None:
        """Real ones, empty, with the figures that DLQ worker and cron keep."""
        scenes.indexed()
        breaker_conf.forget()
        figures.renew()
        letter_counts.advance()

    def scrape(self) -> Series:
        answer = with_key("metrics").get("/metrics")
        assert answer.status_code == 200
        return parsed(answer.content.decode())

    def test_it_needs_the_scope_metrics(self) -> None:
        assert Client().get("/metrics").status_code == 401
        assert with_key("read", "submit", "replay").get("/metrics").status_code == 403
        assert with_key("admin").get("/metrics").status_code == 200
        answer = with_key("metrics").get("/metrics")
        assert (answer.status_code, answer["Cache-Control"]) == (200, "no-store")
        assert answer["Content-Type"].startswith("text/plain; version=0.0.4")
        assert with_key("metrics").get("/api/dlq").status_code == 403

    @pytest.mark.parametrize(
        "accept", ["application/openmetrics-text;version=1.0.0", "text/plain;version=0.0.4", "a/b"]
    )
    def test_it_speaks_to_every_scraper(self, accept: str) -> None:
        answer = Client().get("/metrics", headers={"Authorization": f"Api-Key {a_key('metrics')}", "Accept": accept})

        assert answer.status_code == 200
        assert b"dlq_build_info" in answer.content

    def test_it_has_every_metric_and_a_clean_form(self) -> None:
        answered("/api/messages", "202 Accepted", method="POST")
        measured.observe("handler", "demo", "failed", seconds=0.1)
        Sender(measured, measurements).send()
        assert of(self.scrape(), "dlq_backup_last_success_timestamp_seconds") == {}
        backup.backups().succeeded(file="dlq.tar", letters=1, size=1, by="test")

        content = with_key("metrics").get("/metrics").content
        names = {family.name for family in text_string_to_metric_families(content.decode())}

        assert names == {name.removesuffix("_total") for name in FAMILIES}
        assert all(value == 1 for value in of(parsed(content.decode()), "dlq_collector_up").values())
        promtool = shutil.which("promtool")
        if promtool is None:
            assert "PROMTOOL_REQUIRED" not in os.environ
            pytest.skip("promtool is not installed")
        checked = subprocess.run([promtool, "check", "metrics"], input=content, capture_output=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, b"")

    def test_a_type_from_outside_makes_no_series(self) -> None:
        ledger().accept_many([acceptance(f"m{n}", type=f"type{n}") for n in range(30)])
        ledger().accept(acceptance("demo"))
        for number in range(5):
            measured.observe("handler", f"type{number}", "failed", seconds=0.1)
        Sender(measured, measurements).send()
        found = self.scrape()

        assert of(found, "dlq_messages_accepted_total")[("other",)] == 30
        assert of(found, "dlq_messages_open")[("other",)] == 30
        assert of(found, "dlq_messages_accepted_total")[("demo",)] == 1
        assert of(found, "dlq_handler_duration_seconds_count") == {("failed", "other"): 5}
        assert {labels[0] for labels in of(found, "dlq_messages_open")} <= {"other", *registry.types()}

    def test_it_says_what_health_and_breakers_say(self) -> None:
        presence.announce("w-1", "worker", started_at_ms=1)
        Total.objects.update_or_create(state="failed", defaults={"number": 4})
        breaker_conf.announce(["shop"])
        breaker_services.order("shop", "force-open", actor="ada", reason="test")
        breaker_services.order("shop", "reset", actor="ada", reason="test")
        breaker_services.order("shop", "force-open", actor="ada", reason="test")
        found = self.scrape()

        assert of(found, "dlq_breaker_state")[("shop", "FORCED_OPEN")] == 1
        assert sum(value for labels, value in of(found, "dlq_breaker_state").items() if labels[0] == "shop") == 1
        assert of(found, "dlq_breaker_transitions_total")[("shop",)] == 3
        since = breaker_services.card("shop").since
        assert since is not None
        assert of(found, "dlq_breaker_left_closed_timestamp_seconds")[("shop",)] == since.timestamp()
        assert of(found, "dlq_health_check")[("breakers",)] == 1
        assert of(found, "dlq_health_check")[("redis",)] == 0
        assert of(found, "dlq_processes") == {("worker",): 1, ("dlq_worker",): 0, ("cron",): 0}
        assert of(found, "dlq_store_losses_open") == {(): 0}
        assert of(found, "dlq_notifications_total") == {("sent",): 0, ("failed",): 4, ("uncertain",): 0}

    def test_figures_that_no_one_renews_are_absent_and_not_zero(self, mongo_db: Any) -> None:
        mongo_db["dlq_figures"].delete_many({})
        mongo_db["dlq_counts"].delete_many({})
        found = self.scrape()

        assert of(found, "dlq_collector_up")[("letters",)] == 0
        assert of(found, "dlq_collector_up")[("letter_counts",)] == 0
        assert of(found, "dlq_letters") == of(found, "dlq_letters_due_total") == {}
        assert of(found, "dlq_collector_up")[("ledger",)] == 1

    @pytest.mark.parametrize(
        ("store", "lost"),
        [
            ("redis", {"ledger", "accounts", "breakers", "processes", "measurements"}),
            ("mongodb", {"letters", "letter_counts", "batches", "backups"}),
        ],
    )
    def test_without_a_store_the_rest_is_there(self, settings: Settings, store: str, lost: set[str]) -> None:
        client = with_key("metrics")
        with scenes.away(settings, store):
            answer = client.get("/metrics")
        found = parsed(answer.content.decode())

        assert answer.status_code == 200
        assert {part for (part,), up in of(found, "dlq_collector_up").items() if not up} == lost
        assert of(found, "dlq_health_check")[(store,)] == 2
        assert of(found, "dlq_build_info")
        assert (of(found, "dlq_letters") == {}) == (store == "mongodb")
        assert (of(found, "dlq_messages_running") == {}) == (store == "redis")

    def test_a_scrape_costs_the_same_however_much_there_is(self, redis_client: Any, mongo_db: Any) -> None:
        def commands() -> tuple[int, int]:
            """Of Redis and of MongoDB, without those that ask for them and those of other threads."""
            stats = redis_client.info("commandstats")
            background = ("cmdstat_info", "cmdstat_client")
            redis = sum(one["calls"] for name, one in stats.items() if not name.startswith(background))
            operations = mongo_db.client.admin.command("serverStatus")["opcounters"]
            return redis, operations["query"] + operations["getmore"]

        def cost() -> tuple[int, int]:
            report.doctor().look()  # kept for a second, and shared with all probes
            before = commands()
            SystemCollector({name: part for name, part in parts.PARTS.items() if name != "health"}).read()
            after = commands()
            return after[0] - before[0], after[1] - before[1]

        ledger().accept(acceptance("first"))
        cost()  # scripts are loaded
        few = cost()
        ledger().accept_many([acceptance(f"m{n}") for n in range(400)])
        scenes_letters(mongo_db, 400)
        many = cost()

        assert many[0] <= few[0] + 5
        assert many[1] <= few[1] + 2
        assert few[0] < 150

    def test_what_a_scrape_counts_agrees_with_the_accounts(self) -> None:
        book = ledger()
        book.accept_many([acceptance(f"m{n}") for n in range(7)])
        found, rows = self.scrape(), book.accounting()

        assert of(found, "dlq_messages_accepted_total")[("demo",)] == sum(row.accepted for row in rows) == 7
        assert of(found, "dlq_messages_open")[("demo",)] == sum(row.open for row in rows)
        assert of(found, "dlq_queue_messages")[("normal",)] == 7
        assert of(found, "dlq_accounting_difference_messages")[()] == 0


def scenes_letters(mongo_db: Any, number: int) -> None:
    from dlq_app.testing import a_document

    mongo_db["dead_letters"].insert_many([a_document(f"letter-{n}", status="dlq_failed") for n in range(number)])
    figures.renew()


def test_the_registry_is_of_our_own_and_holds_nothing_else() -> None:
    assert isinstance(collector.registry(), CollectorRegistry)
    assert collector.registry() is collector.registry()
