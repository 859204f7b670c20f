"""What the rest of the house may ask of the dead-letter queue."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from dlq_app import conf, recording, repository
from dlq_app.letter import Death, Recorded, Settled


def record_outcomes(deaths: Sequence[Death], settles: Sequence[Settled]) -> list[Recorded]:
    """Record deaths and good ends of replays in their letters; one answer for each, deaths first, in order.

    Acknowledged by a majority when this returns. Idempotent, and safe for any number of callers at once: the same
    outcome may come again at any time. Raises ``StoreUnavailable`` when MongoDB gives no answer; then all of it may
    be repeated.
    """
    return recording.record(repository.letters(), [*deaths, *settles], conf.replay_policy(), datetime.now(UTC))
