"""`retry_due` from ten crons at the same instant: every letter that is due is replayed by one of them, once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
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
#: They are children of one process, which connects to nothing before it forks: ten starts take long. Each has read
#: which letters are due before any of them claims the first: they meet however busy the machine is.
CROWD = """
import os
import sys
from pathlib import Path
import django
django.setup()
from django.core.management import call_command
from dlq_app.store.repository import Letters

folder, count = Path(sys.argv[1]), int(sys.argv[2])
read = Letters.due

def read_and_wait(letters, now, limit):
    found = read(letters, now, limit)
    os.write(1, b"r")
    sys.stdin.buffer.raw.read(1)
    return found

Letters.due = read_and_wait
for number in range(count):
    if os.fork() == 0:
        code = 1
        try:
            with (folder / f"{number}.json").open("w") as out:
                call_command("retry_due", "--json", stdout=out)
            code = 0
        finally:
            os._exit(code)
sys.exit(any([os.wait()[1] for _ in range(count)]))
"""


def test_ten_at_once_replay_every_due_letter_once(
    redis_client: redis.Redis, mongo_db: Database[dict[str, Any]], tmp_path: Path
) -> None:
    deaths = [a_death(f"m-{n}", type="demo", body=b"{}", epoch=1000 + n) for n in range(LETTERS)]
    dead_letters.record_outcomes(deaths, [])
    crowd = subprocess.Popen(
        [sys.executable, "-c", CROWD, str(tmp_path), str(CRONS)],
        cwd=settings.BASE_DIR,
        env={**os.environ, "DEBUG": "1", "DJANGO_SETTINGS_MODULE": "dlqsite.settings", "LOG_LEVEL": "ERROR"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
    )
    try:
        assert crowd.stdin
        assert crowd.stdout
        for _ in range(CRONS):
            assert crowd.stdout.read(1) == b"r"
        crowd.stdin.write(b"g" * CRONS)
        assert crowd.wait(120) == 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(crowd.pid, signal.SIGKILL)
        crowd.wait()

    figures = [json.loads((tmp_path / f"{number}.json").read_text()) for number in range(CRONS)]
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
