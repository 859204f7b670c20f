"""What has to be done inside the project: ``python -m benchmarks.inside prepare FILE`` and ``… fill TYPE COUNT``.

Runs under ``benchmarks.settings``. ``prepare`` brings tables and indexes up to date and writes a fresh API key to FILE.
``fill`` puts messages straight into the ledger, as intake would, without HTTP: filling is never part of a measurement.
"""

from __future__ import annotations

import hashlib
import sys
import uuid
from pathlib import Path

import django

from benchmarks.load import PAYLOAD_TEXT

#: The highest limit that a key may have: requests are counted and judged as ever, none is refused.
RATE_LIMIT_PER_MINUTE = 10_000_000


def prepare(key_file: Path) -> None:
    from django.core.management import call_command

    from dlqsite.models import ApiKey
    from management import preparation

    call_command("migrate", interactive=False, verbosity=0)
    preparation.ensure_indexes()
    _, key = ApiKey.objects.create_key(
        name="bench", scopes=["submit", "read", "replay", "admin"], rate_limit_per_minute=RATE_LIMIT_PER_MINUTE
    )
    key_file.write_text(key)


def fill(message_type: str, count: int) -> None:
    from messages_app.domain.records import Acceptance
    from messages_app.store.ledger import ledger

    body = PAYLOAD_TEXT.encode()
    digest = hashlib.sha256(message_type.encode() + body).hexdigest()
    for start in range(0, count, 250):
        ids = [uuid.uuid4().hex for _ in range(min(250, count - start))]
        answers = ledger().accept_many(
            [
                Acceptance(
                    message_id=message_id,
                    type=message_type,
                    body=body,
                    sha256=digest,
                    priority="normal",
                    source="shop",
                    client="key:bench",
                    tags='["eu","web"]',
                    accept_token=message_id,
                )
                for message_id in ids
            ]
        )
        if any(answer.status != "accepted" for answer in answers):
            sys.exit(f"not every message was accepted: {answers[0]}")


def main() -> None:
    django.setup()
    task, *arguments = sys.argv[1:]
    if task == "prepare":
        prepare(Path(arguments[0]))
    elif task == "fill":
        fill(arguments[0], int(arguments[1]))
    else:
        sys.exit(f"unknown task {task}")


if __name__ == "__main__":
    main()
