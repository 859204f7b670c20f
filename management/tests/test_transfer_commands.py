"""Exporting, importing and purging, as an operator runs them."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, ManagementUtility, call_command
from pymongo.database import Database

from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import StoreUnavailable
from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.masking import MaskingPolicy
from dlq_app.services import dead_letters
from dlq_app.store import repository
from dlq_app.store.documents import Unreadable
from dlq_app.store.repository import Letters, Refreshed
from dlq_app.testing import MemoryIntake, a_death, a_document
from management import terminal

pytestmark = [pytest.mark.mongo, pytest.mark.django_db, pytest.mark.usefixtures("mongo_db", "intake")]


def run(*line: str) -> tuple[str, str]:
    out, err = StringIO(), StringIO()
    call_command(*line, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def fails(code: int, *line: str) -> str:
    with pytest.raises(CommandError) as caught:
        run(*line)
    assert caught.value.returncode == code
    return str(caught.value)


def goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Letters.walk

    def walk(self: Letters, criteria: LetterCriteria) -> Iterator[DeadLetter | Unreadable]:
        yield from real(self, criteria)
        raise StoreUnavailable("MongoDB is away")

    monkeypatch.setattr(Letters, "walk", walk)


def test_what_is_exported_to_a_file_is_imported_from_it(mongo_db: Database[dict[str, Any]], tmp_path: Path) -> None:
    dead_letters.record_outcomes([a_death(f"m-{n}", body=b'{"token": "tok_1"}') for n in range(3)], [])
    file = tmp_path / "letters.jsonl"

    assert "3 letters written" in run("export_dlq", "--reveal", "--reason", "INC-7", "--output", str(file))[1]
    exported = file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["letters.jsonl"]

    mongo_db["dead_letters"].delete_many({})
    assert run("import_dlq", str(file))[0] == "3 imported, 0 unchanged, 0 rejected.\n"
    *letters, _ = run("export_dlq", "--reveal", "--reason", "INC-7")[0].splitlines()
    marks = [json.loads(line)["imported"]["by"] for line in letters]
    assert marks == [terminal.actor()] * 3
    unmarked = [{**json.loads(line), "imported": None, "history": []} for line in letters]
    assert unmarked == [{**json.loads(line), "history": []} for line in exported.splitlines()[:-1]]
    summary = json.loads(run("import_dlq", str(file), "--json")[0])
    assert (summary["unchanged"], summary["complete"]) == (3, True)


def test_an_export_takes_the_same_filters_as_every_command_and_hides_secrets() -> None:
    dead_letters.record_outcomes([a_death("m-1", body=b'{"token": "tok_1"}'), a_death("m-2", type="order.created")], [])

    table, _ = run("export_dlq", "--format", "csv", "--type", "payment.capture")

    (row,) = csv.DictReader(io.StringIO(table.removeprefix("\ufeff"), newline=""))
    assert (row["messageId"], "tok_1" in table) == ("m-1", False)
    assert "--status must be one of" in fails(1, "export_dlq", "--status", "dead")


def test_secrets_are_exported_with_a_reason_only() -> None:
    assert "needs a --reason" in fails(1, "export_dlq", "--reveal")
    assert "needs a --reason" in fails(1, "export_dlq", "--reveal", "--reason", " ")
    assert "only --reveal takes one" in fails(1, "export_dlq", "--reason", "INC-7")


def test_an_export_that_breaks_off_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead_letters.record_outcomes([a_death(f"m-{n}") for n in range(100)], [])
    (tmp_path / "old.jsonl").write_text("the export of yesterday")
    goes_away(monkeypatch)

    told = fails(1, "export_dlq", "--output", str(tmp_path / "old.jsonl"))

    assert told == "Stopped after 100 letters: MongoDB is away"
    assert os.listdir(tmp_path) == ["old.jsonl"]
    assert (tmp_path / "old.jsonl").read_text() == "the export of yesterday"


def test_an_export_tells_of_what_it_left_out_and_of_a_folder_that_is_not_there(
    mongo_db: Database[dict[str, Any]], tmp_path: Path
) -> None:
    mongo_db["dead_letters"].insert_many([a_document("m-1"), a_document("m-2", status="nonsense")])

    assert fails(2, "export_dlq").startswith("1 documents that are not letters")
    assert "No such file" in fails(1, "export_dlq", "--output", str(tmp_path / "none" / "file"))


def test_an_import_says_what_it_rejected_and_when_a_file_may_not_be_whole(tmp_path: Path) -> None:
    dead_letters.record_outcomes([a_death("m-1")], [])
    lines = run("export_dlq")[0].splitlines(keepends=True)
    file = tmp_path / "letters.jsonl"

    file.write_text("".join(["nonsense\n", *lines]))
    assert fails(2, "import_dlq", str(file)).startswith("The file is incomplete")
    file.write_text(lines[0])
    assert fails(2, "import_dlq", str(file)).startswith("The file has no last line")
    assert run("import_dlq", str(file), "--without-end")[0] == "0 imported, 1 unchanged, 0 rejected.\n"
    file.write_text("nonsense\n")
    assert fails(2, "import_dlq", str(file), "--without-end") == "1 lines were rejected."
    assert "No such file" in fails(1, "import_dlq", str(tmp_path / "none"))


def test_an_import_exits_1_when_a_store_is_away(tmp_path: Path, intake: MemoryIntake) -> None:
    dead_letters.record_outcomes([a_death("m-1")], [])
    file = tmp_path / "letters.jsonl"
    file.write_text(run("export_dlq")[0])
    intake.fail["before_now_ms"] = StoreUnavailable("Redis is away")

    assert "0 imported" in fails(1, "import_dlq", str(file))


@pytest.mark.redis
@pytest.mark.journey
def test_they_stand_in_a_pipe(redis_client: Any, mongo_db: Database[dict[str, Any]]) -> None:
    dead_letters.record_outcomes([a_death(f"m-{n}", error_stack="ü" * 9000) for n in range(20)], [])
    manage = f"{sys.executable} {settings.BASE_DIR / 'manage.py'}"

    def shell(line: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "DEBUG": "1", "PYTHONIOENCODING": "ascii"}
        return subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment, check=False)

    there = shell(f"{manage} export_dlq | {manage} import_dlq - --json; echo ${{PIPESTATUS[@]}}")
    cut = shell(f"{manage} export_dlq | head -c 10 >/dev/null; echo ${{PIPESTATUS[0]}}")

    summary, codes = there.stdout.splitlines()
    assert (json.loads(summary)["unchanged"], codes) == (20, "0 0"), there.stderr
    assert cut.stdout.strip() == "1"
    assert "The reader closed the pipe" in cut.stderr
    assert "Traceback" not in cut.stderr


class TestPurging:
    @pytest.fixture(autouse=True)
    def _letters(self, mongo_db: Database[dict[str, Any]]) -> None:
        """Resolved for a minute, two hours, two days; and old ones that nobody has resolved."""
        now = datetime.now(UTC)
        ages = {"minute": timedelta(minutes=1), "hours": timedelta(hours=2), "days": timedelta(days=2)}
        long_ago: dict[str, Any] = {"lastFailedAt": now - timedelta(days=90), "createdAt": now - timedelta(days=90)}
        resolved: dict[str, Any] = {"status": "dlq_resolved", "resolution": "replayed", **long_ago}
        mongo_db["dead_letters"].insert_many(
            [
                *(a_document(name, **resolved, resolvedAt=now - age) for name, age in ages.items()),
                *(a_document(status, status=status, **long_ago) for status in ("dlq_pending", "dlq_processing")),
                # Claimed again after it was resolved: it keeps when that was.
                a_document("again", status="dlq_processing", resolvedAt=now - timedelta(days=9), **long_ago),
                a_document("unknown", **resolved, resolvedAt=None),
            ]
        )

    def left(self, mongo_db: Database[dict[str, Any]]) -> set[str]:
        return {document["messageId"] for document in mongo_db["dead_letters"].find()}

    def test_it_deletes_what_was_resolved_long_ago_and_nothing_else(self, mongo_db: Database[dict[str, Any]]) -> None:
        before = self.left(mongo_db)

        assert json.loads(run("purge_dlq", "--older-than", "1d", "--dry-run", "--json")[0]) == {
            "matched": 1,
            "matchedIsCapped": False,
            "deleted": 0,
            "dryRun": True,
        }
        assert run("purge_dlq", "--older-than", "1d", "--dry-run")[0] == "Would delete 1 resolved letters.\n"
        assert self.left(mongo_db) == before
        assert run("purge_dlq", "--older-than", "1d", "--status", "dlq_resolved", "--yes")[0] == "1 deleted.\n"
        assert self.left(mongo_db) == before - {"days"}
        assert run("purge_dlq", "--older-than", "60m", "--yes")[0] == "1 deleted.\n"
        assert self.left(mongo_db) == before - {"days", "hours"}
        assert run("purge_dlq", "--older-than", "60m", "--yes")[0] == "0 deleted.\n"

    def test_never_what_was_resolved_within_the_hour(self, mongo_db: Database[dict[str, Any]]) -> None:
        before = self.left(mongo_db)

        for age in ("59m", "0m", "0d"):
            assert fails(1, "purge_dlq", "--older-than", age, "--yes") == "--older-than: must be at least one hour."
        assert self.left(mongo_db) == before

    def test_never_what_is_not_resolved(self, mongo_db: Database[dict[str, Any]]) -> None:
        before = self.left(mongo_db)

        told = fails(
            1, "purge_dlq", "--older-than", "1d", "--status", "dlq_manual", "--status", "dlq_resolved", "--yes"
        )

        assert "must be dlq_resolved: no other letters are deleted" in told
        assert self.left(mongo_db) == before

    @pytest.mark.parametrize("age", ["30", "d", "-1d", "1.5d", "30 d", "1y", "٣d"])
    def test_an_age_is_a_number_and_a_unit(self, age: str) -> None:
        assert "--older-than must be" in fails(1, "purge_dlq", f"--older-than={age}", "--yes")

    def test_it_takes_filters(self, mongo_db: Database[dict[str, Any]]) -> None:
        assert run("purge_dlq", "--older-than", "1h", "--yes", "--type", "order.created")[0] == "0 deleted.\n"

    def test_it_asks_and_does_nothing_where_nobody_can_answer(
        self, mongo_db: Database[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = self.left(mongo_db)

        monkeypatch.setattr(terminal, "can_ask", lambda: False)
        assert fails(1, "purge_dlq", "--older-than", "1d").startswith("Would delete 1 resolved letters. Nobody")
        monkeypatch.setattr(terminal, "can_ask", lambda: True)
        monkeypatch.setattr(sys, "stdin", StringIO("n\n"))
        out, err = run("purge_dlq", "--older-than", "1d")
        assert (out, err) == ("0 deleted.\n", "Delete 1 resolved letters for good? [y/N] ")
        assert self.left(mongo_db) == before
        monkeypatch.setattr(sys, "stdin", StringIO("yes\n"))
        assert run("purge_dlq", "--older-than", "1d")[0] == "1 deleted.\n"

    def test_it_deletes_in_steps(self, mongo_db: Database[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
        from dlq_app.store import transfer

        monkeypatch.setattr(transfer, "_PURGED_AT_ONCE", 1)

        assert run("purge_dlq", "--older-than", "1h", "--yes")[0] == "2 deleted.\n"

    def test_a_letter_that_is_claimed_at_the_same_instant_stays(
        self, mongo_db: Database[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        letters = repository.letters()
        monkeypatch.setattr(letters, "_letters", _Meanwhile(letters._letters))

        assert letters.purge(LetterCriteria(), letters.server_now() - timedelta(hours=1)) == 1
        assert {"days", "hours"} & self.left(mongo_db) == {"days"}


class _Meanwhile:
    """A collection in which a letter is claimed between the look and the deletion."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def delete_many(self, where: dict[str, Any]) -> Any:
        dead_letters.replay("days", actor="user:ann", force=True)
        return self._real.delete_many(where)


@pytest.mark.parametrize(
    "line",
    [
        "export_dlq --format xml",
        "import_dlq",
        "purge_dlq",
        "send_messages --count many",
        "retry_due --hard",
        "replay_dlq --rate x",
    ],
)
def test_a_wrong_flag_is_an_error_and_not_something_left_out(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As from a shell: 2 would say that letters failed, or that a part is missing."""
    with pytest.raises(SystemExit) as caught:
        ManagementUtility(["manage.py", *line.split()]).execute()

    assert caught.value.code == 1
    assert "usage:" in capsys.readouterr().err


def test_the_words_to_search_by_are_made_anew(
    mongo_db: Database[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    dead_letters.record_outcomes([a_death(f"m-{n}", error_reason="password=xyzzy refused") for n in range(3)], [])
    mongo_db["dead_letters"].update_many({}, {"$set": {"searchWords": ["xyzzy"]}})

    assert run("refresh_search", "--after=m-1")[0] == "1 of 1 letters changed.\n"
    assert run("refresh_search")[0] == "2 of 3 letters changed.\n"
    assert mongo_db["dead_letters"].count_documents({"searchWords": "xyzzy"}) == 0

    def interrupted(self: Letters, after: str, masking: MaskingPolicy) -> Refreshed:
        if after:
            raise KeyboardInterrupt
        return Refreshed(1000, 7, "m-17")

    monkeypatch.setattr(Letters, "refresh_words", interrupted)
    assert fails(1, "refresh_search") == "Stopped. 7 of 1000 letters changed so far. Go on with --after=m-17."
