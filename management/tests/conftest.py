"""Letters in an empty collection, and intake's port in plain Python, as in the tests of the dead-letter queue."""

from __future__ import annotations

from dlq_app.tests.conftest import intake, letters, store

__all__ = ["intake", "letters", "store"]
