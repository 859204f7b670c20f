"""What it means when Django's database does not answer, for REST and console alike."""

from __future__ import annotations

from typing import Final

from django.db import InterfaceError, OperationalError

#: Errors of a database that is away, silent, locked or full: a later try may succeed. Others are mistakes of ours.
AWAY: Final = (OperationalError, InterfaceError)
HEADING: Final = "The database does not answer"
#: For people: without the driver's words, which may hold addresses.
SAID: Final = (
    "Users, API keys and the audit log are kept there. Messages and letters are not affected: workers go on, and "
    "messages are accepted from clients whose key was checked in the last minutes."
)
RETRY_AFTER_S: Final = 5
