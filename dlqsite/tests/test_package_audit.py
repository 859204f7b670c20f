"""The audit of packages is green when there is no finding, and loud when nobody could be asked."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

AUDIT = Path(__file__).resolve().parents[2] / ".ci" / "audit"


@pytest.mark.parametrize(
    ("does", "required", "status", "said"),
    [
        ("exit 0", "", 0, "no known vulnerability, by pypi"),
        ('echo \'{"vulns": ["PYSEC-1"]}\'; exit 1', "", 1, "PYSEC-1"),
        ('[ "$9" = osv ] || { echo away >&2; exit 1; }', "", 0, "no known vulnerability, by osv"),
        ("echo no route to host >&2; exit 1", "", 0, "NOT CHECKED for known vulnerabilities"),
        ("echo no route to host >&2; exit 1", "1", 1, "NOT CHECKED for known vulnerabilities"),
    ],
)
def test_the_audit_is_green_only_without_findings(
    tmp_path: Path, does: str, required: str, status: int, said: str
) -> None:
    program = tmp_path / "pip-audit"
    program.write_text(f"#!/bin/sh\n{does}\n")
    program.chmod(0o755)

    done = subprocess.run(
        [AUDIT, "requirements.txt"],
        env=os.environ | {"PIP_AUDIT": str(program), "AUDIT_REQUIRED": required},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == status
    assert said in done.stdout + done.stderr
