"""What is known of backups and restores, for health, metrics and commands."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings

from dlq_app.domain.store_problem import StoreProblem
from dlq_app.store.backup import backups


def last_success() -> datetime | None:
    """When the last backup succeeded, by MongoDB's clock; None when none is recorded. Raises ``StoreUnavailable``."""
    last, _ = backups().last()
    return last.at if last else None


def problems() -> list[StoreProblem]:
    """A backup that is too old (``BACKUP_MAX_AGE_H``), a restore that did not end. Raises ``StoreUnavailable``."""
    found = []
    if backups().unfinished_restore() is not None:
        found.append(
            StoreProblem(
                part="mongodb",
                code="restore_unfinished",
                what="A restore has not ended, so letters can be missing.",
                fix="Stop the roles and run manage.py restore again with the same file.",
            )
        )
    hours: float = settings.BACKUP_MAX_AGE_H
    if hours:
        last, now = backups().last()
        if last is None or now - last.at > timedelta(hours=hours):
            age = f"{(now - last.at) / timedelta(hours=1):,.0f} h old" if last else "missing"
            found.append(
                StoreProblem(
                    part="mongodb",
                    code="backup_old",
                    what=f"The last backup is {age}. BACKUP_MAX_AGE_H allows {hours:g} h.",
                    fix="Run manage.py backup, and check the job that runs it.",
                )
            )
    return found
