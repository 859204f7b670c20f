"""The dead-letter queue in Django's admin. Importing it registers its pages."""

import dlq_app.admin.batches.changelist
import dlq_app.admin.groups.changelist
import dlq_app.admin.letters.changelist  # noqa: F401
