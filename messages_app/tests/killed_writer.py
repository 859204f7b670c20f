"""A process that is killed while it writes letters: ``python -m messages_app.tests.killed_writer WHERE``."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any


def main(where: str) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dlqsite.settings")
    import django

    django.setup()

    from dlq_app.services.dead_letters import record_outcomes
    from messages_app.store.ledger import Ledger, ledger
    from messages_app.tests.handling import an_acceptance
    from messages_app.work.engine import Engine
    from messages_app.work.letter_writer import LetterWriter

    def killed() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def record(deaths: Sequence[Any], settles: Sequence[Any]) -> Any:
        if where == "before the letter":
            killed()
        answers = record_outcomes(deaths, settles)
        if where == "after the letter":
            killed()
        return answers

    class Killing(Ledger):
        def drained(self, acknowledged: Sequence[tuple[str, int, str]]) -> list[bool]:
            super().drained(acknowledged)
            killed()
            return []

    book = ledger()
    payload = {"simulateError": True, "errorType": "VALIDATION_ERROR"}
    book.accept_many([an_acceptance(payload, message_id=f"m{number}") for number in range(3)])
    writer = LetterWriter(Killing.__new__(Killing), record)
    writer._ledger.__dict__.update(vars(book))
    engine = Engine(book, name="w-1", concurrency=3, letters=writer)
    engine.start()
    # The messages end one by one: all are written by one command.
    while engine.flusher.failed < 3:
        time.sleep(0.01)
    writer.start()
    time.sleep(30)


if __name__ == "__main__":
    main(sys.argv[1])
