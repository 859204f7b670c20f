"""The collector of prometheus-client: reads all parts at the same time, each within a limit.

A part that fails or is late is left out, and ``dlq_collector_up`` is 0 for it: no metric is made up or old.
"""

from __future__ import annotations

import logging
import platform
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import accumulate
from typing import Final

import django
from django.conf import settings
from django.db import Error as DatabaseError
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from dlq_app import conf
from dlqsite.metrics.families import COUNTER, FAMILIES, HISTOGRAM, Family
from dlqsite.metrics.parts import PARTS
from dlqsite.metrics.samples import Samples
from processes.measured import BOUNDS_S
from processes.once import OncePerProcess
from processes.turns import OutageLog
from wire.errors import ServiceError

log = logging.getLogger(__name__)

#: Seconds for all parts together. Prometheus waits 10 s by default.
LIMIT_S: Final = 4.0
_BOUNDS: Final = (*(f"{bound:g}" for bound in BOUNDS_S), "+Inf")


class SystemCollector(Collector):
    """All metrics of the system. Safe for threads."""

    def __init__(self, parts: Mapping[str, Callable[[], Samples]], *, limit_s: float = LIMIT_S) -> None:
        self._parts = parts
        self._limit_s = limit_s
        # Twice as many threads as parts: parts that hang must not make the next scrape hang as well.
        self._threads = ThreadPoolExecutor(2 * len(parts), thread_name_prefix="metrics")
        self._lock = threading.Lock()
        self._outages = {
            name: OutageLog(log, "metrics_part_away", "metrics_part_back", part=name) for name in parts
        }  # fmt: skip

    def collect(self) -> Iterator[Metric]:
        samples = self.read()
        for family in FAMILIES.values():
            if family.name in samples.values or family.name in samples.histograms:
                yield _metric(family, samples)

    def read(self) -> Samples:
        """The samples of all parts that answer in time."""
        asked = {name: self._threads.submit(part) for name, part in self._parts.items()}
        wait(asked.values(), timeout=self._limit_s)
        samples = _constants()
        for name, future in asked.items():
            found = self._answer(name, future)
            samples.put("dlq_collector_up", found is not None, name)
            if found is not None:
                samples.take(found)
        return samples

    def _answer(self, name: str, future: Future[Samples]) -> Samples | None:
        if not future.done():
            future.cancel()
            error: BaseException | None = TimeoutError(f"no answer within {self._limit_s:g} s")
        else:
            error = future.exception()
        with self._lock:
            if error is None:
                self._outages[name].succeeded()
                return future.result()
            if isinstance(error, ServiceError | DatabaseError | TimeoutError):
                self._outages[name].failed(error)
            else:
                # A mistake in one part must not take the others with it.
                log.error("metrics_part_broken", extra={"part": name}, exc_info=error)
        return None


def _constants() -> Samples:
    samples, objective = Samples(), conf.letters_objective()
    samples.put("dlq_build_info", 1, settings.VERSION, platform.python_version(), django.get_version())
    samples.put("dlq_objective_ratio", objective.ratio)
    samples.put("dlq_objective_seconds", objective.within.total_seconds())
    return samples


def _metric(family: Family, samples: Samples) -> Metric:
    if family.kind == HISTOGRAM:
        durations = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for labels, histogram in sorted(samples.histograms[family.name].items()):
            counts = zip(_BOUNDS, accumulate(histogram.buckets), strict=True)
            durations.add_metric(labels, list(counts), histogram.sum_us / 1_000_000)
        return durations
    kind = CounterMetricFamily if family.kind == COUNTER else GaugeMetricFamily
    metric = kind(family.name, family.help, labels=family.labels)
    for labels, value in sorted(samples.values[family.name].items()):
        metric.add_metric(labels, value)
    return metric


@OncePerProcess
def registry() -> CollectorRegistry:
    """The registry with the collector of this process: threads do not survive a fork."""
    found = CollectorRegistry()
    found.register(SystemCollector(PARTS))
    return found
