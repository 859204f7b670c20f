"""The check before a role starts: can the Redis in the settings hold a ledger?"""

from __future__ import annotations

import time
from time import sleep as pause

from django.conf import settings

from breaker_app.redis_url import url_problem
from messages_app.domain.errors import StoreUnavailable
from messages_app.store.ledger import ledger
from wire.errors import PolicyError

#: Wait for a replica to become the primary. Longer than what a supervisor treats as a crash at startup.
PATIENCE_S = 15.0
_LOOK_AGAIN_S = 0.5


def refusal(*, patience_s: float | None = None) -> str:
    """The reason why this process must not start, with the fix, in one line; empty when it may.

    An unavailable server is not a reason: every role waits for it.
    """
    if wrong := url_problem(settings.REDIS_URL):
        return wrong
    until = time.monotonic() + (PATIENCE_S if patience_s is None else patience_s)
    while True:
        try:
            problems = ledger().identity_problems()
        except PolicyError as error:
            return str(error)
        except StoreUnavailable:
            return ""
        may_pass = all(problem.code == "read_only" for problem in problems)
        if not problems or not may_pass or time.monotonic() > until:
            return " ".join(f"{problem.what} {problem.fix}" for problem in problems)
        pause(_LOOK_AGAIN_S)
