"""What a role looks at before it starts: whether there can be a ledger at all where the settings say."""

from __future__ import annotations

import time
from time import sleep as pause

from django.conf import settings

from messages_app.domain.errors import StoreUnavailable
from messages_app.store.connection import url_problem
from messages_app.store.ledger import ledger
from wire.errors import PolicyError

#: A replica may be about to become the primary. Longer than the time in which a supervisor calls a death a quick one.
PATIENCE_S = 15.0
_LOOK_AGAIN_S = 0.5


def refusal(*, patience_s: float | None = None) -> str:
    """One line that says why this process must not start, and the fix; empty when it may.

    A server that does not answer is no reason: every role waits for it, as it does when the server goes away later.
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
