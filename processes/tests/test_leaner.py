"""Packages that are imported without optional parts, in processes of their own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(script: str, *arguments: str, **environment: str) -> list[str]:
    """The words that a fresh interpreter prints."""
    # Settings of this machine's allocator would decide, not the code.
    inherited = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys\nfrom processes.leaner import import_leaner\n{script}", *arguments],
        env=inherited | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


def test_redis_is_imported_without_metrics_which_can_be_imported_later() -> None:
    script = """
import_leaner()
import redis
print("opentelemetry.sdk" in sys.modules)
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from redis.observability import OTelConfig, get_observability_instance
metrics.set_meter_provider(MeterProvider())
get_observability_instance().init(OTelConfig())
print(get_observability_instance().get_provider_manager().get_meter_provider() is metrics.get_meter_provider())
"""
    assert run(script) == ["False", "True"]


def test_pymongo_is_imported_without_cryptography() -> None:
    script = """
import_leaner()
import pymongo
from pymongo.ssl_support import HAVE_PYSSL, HAVE_SSL
print(HAVE_SSL, HAVE_PYSSL, "cryptography.x509" in sys.modules)
"""
    assert run(script) == ["True", "False", "False"]


def test_pymongo_finds_pyopenssl_where_it_is_installed(tmp_path: Path) -> None:
    for name in ("OpenSSL/__init__", "service_identity/__init__", "cryptography/__init__", "cryptography/x509"):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("" if name != "OpenSSL/__init__" else "print('asked')\nraise ImportError")

    assert "asked" in run("import_leaner()\nimport pymongo", PYTHONPATH=f"{tmp_path}{os.pathsep}{os.getcwd()}")


def test_a_module_that_is_there_already_stays() -> None:
    script = """
import_leaner()
import_leaner()
import opentelemetry.sdk.metrics as before
import redis
import opentelemetry.sdk.metrics as after
print(before is after, sum("leaner" in type(finder).__module__ for finder in sys.meta_path))
"""
    assert run(script) == ["True", "1"]


def test_the_asynchronous_half_of_redis_is_imported_when_it_is_used() -> None:
    script = """
import_leaner()
import redis
print("redis.asyncio" in sys.modules, "redis.asyncio.client" in sys.modules)
import redis.asyncio as half
print(half.Redis.__name__, redis.asyncio is half, "Redis" in half.__all__, type(half).__name__)
from redis.asyncio import Sentinel
from redis.asyncio import *
print(half.observability.recorder.__name__, hasattr(half, "missing"), Sentinel.__name__)
"""
    assert run(script) == [
        *("True", "False"), *("Redis", "True", "True", "module"),
        *("redis.asyncio.observability.recorder", "False", "Sentinel"),
    ]  # fmt: skip


def test_a_deferred_module_works_for_all_threads_that_use_it_at_once() -> None:
    script = """
import_leaner()
import sqlparse, threading
print("sqlparse.cli" in sys.modules)
begin, found = threading.Barrier(8), []
def use():
    begin.wait()
    found.append(sqlparse.split("SELECT 1; SELECT 2"))
threads = [threading.Thread(target=use) for _ in range(8)]
for each in threads: each.start()
for each in threads: each.join()
print(len(found), found.count(["SELECT 1;", "SELECT 2"]))
"""
    assert run(script) == ["False", "8", "8"]


def test_a_deferred_module_that_fails_can_be_used_once_it_works(tmp_path: Path) -> None:
    script = """
import_leaner()
import os, sqlparse
try: sqlparse.split
except ZeroDivisionError: print("failed")
os.environ["DIVISOR"] = "1"
print(sqlparse.split)
"""
    (tmp_path / "sqlparse.py").write_text("import os\n1 / int(os.environ['DIVISOR'])\nsplit = 'works'")

    path = f"{tmp_path}{os.pathsep}{os.getcwd()}"
    assert run(script, PYTHONPATH=path, DIVISOR="0") == ["failed", "works"]


def test_settling_bounds_the_arenas_of_threads() -> None:
    """Each arena is a region of 64 MiB, reserved and mostly unused."""
    script = """
from processes.leaner import settle
import threading
if "settle" in sys.argv: settle()
keep, allocated, end = [], threading.Barrier(13), threading.Event()
def work():
    keep.append(bytearray(100_000)); allocated.wait(); end.wait()
for _ in range(12): threading.Thread(target=work, daemon=True).start()
allocated.wait()
reserved = [line.split()[0].split("-") for line in open("/proc/self/maps") if " ---p " in line]
print(sum(int(end, 16) - int(begin, 16) > 60 << 20 for begin, end in reserved))
"""
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("only glibc has arenas")
    unbounded, bounded = run(script), run(script, "settle")
    assert int(bounded[0]) <= 1 < int(unbounded[0])


def test_the_files_of_such_a_package_are_found() -> None:
    script = """
import_leaner()
import importlib.resources, inspect, redis
print((importlib.resources.files("redis") / "client.py").is_file(), "int_or_str" in inspect.getsource(redis))
"""
    assert run(script) == ["True", "True"]
