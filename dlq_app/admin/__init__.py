"""The dead-letter queue in Django's admin. Importing it registers its pages."""

from __future__ import annotations

from dlq_app.admin.batches import changelist as batches
from dlq_app.admin.groups import changelist as groups
from dlq_app.admin.letters import changelist as letters

__all__ = ["batches", "groups", "letters"]
