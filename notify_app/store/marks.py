"""What the notifier has seen of each source. A mark moves in the transaction that records the events behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.db import transaction

from notify_app.models import Mark


@dataclass(frozen=True, slots=True)
class Seen:
    """A mark as it was read. ``value`` is None before the first look at a source."""

    source: str
    value: Any
    version: int


def read(source: str) -> Seen:
    """The mark of this source."""
    mark = Mark.objects.filter(pk=source).first()
    return Seen(source, mark.value, mark.version) if mark else Seen(source, None, 0)


def move(seen: Seen, value: Any, record: Callable[[], object]) -> bool:
    """Call ``record`` and move the mark, both or neither.

    False if another notifier has moved the mark since: then neither.
    """
    with transaction.atomic():
        Mark.objects.get_or_create(pk=seen.source, defaults={"value": {}, "version": 0})
        # First: the row is locked until the end, so a concurrent notifier waits here and then finds another version.
        if not Mark.objects.filter(pk=seen.source, version=seen.version).update(value=value, version=seen.version + 1):
            return False
        record()
    return True
