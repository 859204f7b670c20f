from __future__ import annotations

from django.apps import AppConfig


class WorkloadConfig(AppConfig):
    name = "benchmarks.workload"
    label = "benchmark_workload"
    verbose_name = "Benchmark workload"
