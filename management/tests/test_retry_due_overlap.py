"""`retry_due` from ten crons at the same instant: every letter that is due is replayed by one of them, once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
import redis
from django.conf import settings
from pymongo.database import Database

from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.letter import DeadLetter
from dlq_app.services import dead_letters
from dlq_app.store import repository
from dlq_app.testing import a_death
from messages_app.store.ledger import ledger

pytestmark = [pytest.mark.mongo, pytest.mark.redis, pytest.mark.journey]

CRONS, LETTERS = 10, 60
#: Each has read what is due before any of them claims the first letter: they meet however busy the machine is.
GATED = """
import sys
import django
django.setup()
from django.core.management import call_command
from dlq_app.store.repository import Letters

read = Letters.due

def read_and_wait(letters, now, limit):
    found = read(letters, now, limit)
    print("ready", flush=True)
    sys.stdin.readline()
    return found

Letters.due = read_and_wait
call_command("retry_due", "--json")
"""


def test_ten_at_once_replay_every_due_letter_once(
    redis_client: redis.Redis, mongo_db: Database[dict[str, Any]]
) -> None:
    deaths = [a_death(f"m-{n}", type="demo", body=b"{}", epoch=1000 + n) for n in range(LETTERS)]
    dead_letters.record_outcomes(deaths, [])
    crons = [
        subprocess.Popen(
            [sys.executable, "-c", GATED],
            cwd=settings.BASE_DIR,
            env={**os.environ, "DEBUG": "1", "DJANGO_SETTINGS_MODULE": "dlqsite.settings", "LOG_LEVEL": "ERROR"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(CRONS)
    ]
    try:
        for cron in crons:
            assert cron.stdout
            assert cron.stdout.readline() == "ready\n"
        for cron in crons:
            assert cron.stdin
            cron.stdin.write("go\n")
            cron.stdin.flush()
        figures = [json.loads(cron.communicate(timeout=120)[0]) for cron in crons]
    finally:
        for cron in crons:
            cron.kill()
            cron.wait()

    assert [cron.returncode for cron in crons] == [0] * CRONS
    assert [figure["due"] for figure in figures] == [LETTERS] * CRONS, "they did not meet"
    assert sum(figure["replayed"] for figure in figures) == LETTERS
    assert sum(figure["left"] for figure in figures) == LETTERS * (CRONS - 1)
    assert sum(figure["postponed"] for figure in figures) == 0
    letters = [one for one in repository.letters().walk(LetterCriteria()) if isinstance(one, DeadLetter)]
    assert Counter(letter.status for letter in letters) == {"dlq_processing": LETTERS}
    assert {len(letter.replay_attempts) for letter in letters} == {1}
    first = {f"m-{n}": 1000 + n for n in range(LETTERS)}
    for letter in letters:
        record = ledger().get(letter.message_id)
        assert record is not None
        assert (record.epoch, letter.fence) == (first[letter.message_id] + 1,) * 2
        assert record.replay_id == letter.replay_attempts[0]["replayId"]
    # One wake-up for each: nothing was put into a lane twice.
    wakeups = [str(name) for name in redis_client.lrange("rq:queue:normal", 0, -1)]
    assert sorted(name.split("-")[2] for name in wakeups) == sorted(str(n) for n in range(LETTERS))
