"""Packages that are imported without optional parts, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run(script: str, **environment: str) -> list[str]:
    """The words that a fresh interpreter prints."""
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys\nfrom processes.leaner import import_leaner\n{script}"],
        env=os.environ | environment, capture_output=True, text=True, check=False,
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


def test_the_files_of_such_a_package_are_found() -> None:
    script = """
import_leaner()
import importlib.resources, inspect, redis
print((importlib.resources.files("redis") / "client.py").is_file(), "int_or_str" in inspect.getsource(redis))
"""
    assert run(script) == ["True", "True"]
