"""Look at everything this installation depends on."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from management.doctor import Finding, Status, alive_here, diagnose
from management.terminal import printable


class Command(BaseCommand):
    help = "Check every dependency, policy, index and setting. Exit code 1 when something must be fixed."
    # They are part of what is looked at, and must not keep the rest from being looked at.
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own attribute

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print one JSON object")
        parser.add_argument(
            "--alive",
            action="store_true",
            help="Only check that every role on this host reports itself (for health checks)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["alive"]:
            alive, silent = alive_here()
            if silent:
                named = ", ".join(f"{one.role} (pid {one.pid})" for one in silent)
                raise CommandError(
                    f"running but silent: {named}. See its log; it may be stopped (SIGSTOP) or stuck (step_slow)"
                )
            if not alive:
                raise CommandError("no role on this host has reported itself alive")
            return
        findings = []
        for finding in diagnose():
            findings.append(finding)
            if not options["json"]:
                self._tell(finding)
        failed = sum(finding.status is Status.FAIL for finding in findings)
        warned = sum(finding.status is Status.WARN for finding in findings)
        if options["json"]:
            wire = [asdict(finding) for finding in findings]
            self.stdout.write(json.dumps({"healthy": not failed, "findings": wire}, indent=2))
        else:
            self.stdout.write(f"{len(findings) - failed - warned} ok, {warned} warn, {failed} FAIL")
        if failed:
            raise SystemExit(1)

    def _tell(self, finding: Finding) -> None:
        style = {Status.OK: self.style.SUCCESS, Status.WARN: self.style.WARNING, Status.FAIL: self.style.ERROR}
        mark = style[finding.status](f"{finding.status.value:4}")
        self.stdout.write(f"{mark}  {printable(finding.name)}: {printable(finding.detail)}")
        if finding.fix:
            self.stdout.write(f"      fix: {printable(finding.fix)}")
