"""The dead-letter queue in Django's admin. Importing it registers its pages."""

from __future__ import annotations

from dlq_app.admin import batches, groups, letters

__all__ = ["batches", "groups", "letters"]
