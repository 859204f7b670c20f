"""``backup`` and ``restore``: a filled stack comes back whole; damaged, unfinished and unwanted ones are refused."""

from __future__ import annotations

import fcntl
import io
import json
import os
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bson
import pytest
from bson import Code, Decimal128, Int64, ObjectId
from bson.raw_bson import RawBSONDocument
from django.contrib.auth.models import User
from django.core.management import CommandError
from django.test import Client

from audit_app.lines import record
from audit_app.models import AuditLine
from dlq_app.domain.group_states import GroupState
from dlq_app.domain.loss import Loss
from dlq_app.services import backups as known_backups
from dlq_app.services import batches, dead_letters
from dlq_app.store import indexes, repository
from dlq_app.store.backup import COLLECTIONS, Backups, document_from, line_of
from dlq_app.store.groups import groups
from dlq_app.store.mongo import database
from dlq_app.testing import MemoryIntake
from dlq_app.tests.batch_rig import Rig
from dlqsite.access import known_keys
from dlqsite.checks import check_backup_age
from dlqsite.health import store_checks
from dlqsite.metrics import parts
from dlqsite.models import ApiKey
from dlqsite.tests.people import a_key, member
from management import backup, database_rows
from management.archive import Archive
from management.errors import ArchiveDamaged
from management.tests.commands import run
from messages_app.store import presence
from messages_app.store.inspection import inspection
from messages_app.store.ledger import ledger
from messages_app.store.marks import marks
from messages_app.tests.handling import an_acceptance
from messages_app.tests.ledgers import token
from messages_app.work.reconcile import reconcile

pytestmark = [pytest.mark.redis, pytest.mark.mongo, pytest.mark.django_db]

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


@pytest.fixture
def rig(redis_client: Any, mongo_db: Any, monkeypatch: pytest.MonkeyPatch) -> Rig:
    store = database()
    if indexes.missing(store):
        indexes.ensure(store, keep_resolved_days=90)
    port = MemoryIntake()
    monkeypatch.setattr("dlq_app.conf._load", lambda path: port)
    return Rig(repository.letters(), port)


def fill(rig: Rig) -> Client:
    """Letters in every status, groups, batches in several stages, a loss, keys, users, audit lines; a key's client."""
    rig.die("manual", "discarded", "replayed", error_kind="permanent", error_type="VALIDATION_ERROR")
    rig.die("binary", body=b"\xff\x00\x01", tags=("\N{SNOWMAN}",))
    rig.die("claimed", "pending")
    dead_letters.discard("discarded", actor="key:olga", reason="a test")
    dead_letters.add_note("manual", actor="user:vic", text="ask payments")
    rig.run(rig.start(ids=["replayed"], name="ran"))
    dead_letters.replay("claimed", actor="key:olga")
    for name, started in (("planned", False), ("running", True)):
        rig.die(f"{name}-1", f"{name}-2")
        batch = rig.start(ids=[f"{name}-1", f"{name}-2"], name=name)
        if started:
            rig.run(batch, until=lambda one: one.counts.sent > 0, done=lambda message_id: None)
    fingerprint = rig.letter("manual").fingerprint
    groups().described([fingerprint])
    groups().set_state(fingerprint, GroupState.RESOLVED, by="user:vic", reason="fixed in 1.2", at=NOON)
    loss = Loss(id="l-1", store="redis", since=NOON, until=NOON, seen_at=NOON, missing=3, moves=4, open=5)
    repository.losses().note("dlq:", loss)
    marks().look(None)
    repository.losses().advance("dlq:", None, {**marks().look(None)[1]._asdict(), "at": NOON})
    record("user:vic", "resolve", kind="deadletter", object_id="x", name="\N{SNOWMAN}", why="because", count=3)
    member("operator", "olga")
    return Client(headers={"Authorization": f"Api-Key {a_key('read', name='reader', rate_limit_per_minute=0)}"})


def dump(mongo_db: Any) -> dict[str, list[bytes]]:
    return {name: [line_of(one) for one in mongo_db[name].find().sort("_id", 1)] for name in COLLECTIONS}


def rows() -> dict[str, list[Any]]:
    return {name: list(table.read()) for name, table in database_rows.TABLES.items()}


def export(client: Client) -> list[dict[str, Any]]:
    answer = client.get("/api/dlq/export")
    assert answer.status_code == 200, answer.content
    return [json.loads(line) for line in b"".join(answer).splitlines()]


def empty(mongo_db: Any, redis_client: Any) -> None:
    """A new installation after ``prepare``: no messages, letters, keys or lines, only the roles."""
    for name in mongo_db.list_collection_names():
        mongo_db[name].delete_many({})
    redis_client.flushall()
    ApiKey.objects.all().delete()
    User.objects.all().delete()
    AuditLine.objects.all()._raw_delete(AuditLine.objects.db)
    known_keys.clear()


def test_a_filled_stack_comes_back_whole(rig: Rig, mongo_db: Any, redis_client: Any, tmp_path: Path) -> None:
    client = fill(rig)
    redis_client.flushdb()  # only the letters come back
    before, rows_before, exported = dump(mongo_db), rows(), export(client)
    file = tmp_path / "backup.tar"

    told = json.loads(run("backup", str(file), "--json"))
    assert "complete" in run("backup", "--verify", str(file))
    assert (told["oneInstant"], told["members"]["dead_letters"]) == (True, len(before["dead_letters"]))
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["backup.tar"]
    empty(mongo_db, redis_client)
    done = json.loads(run("restore", str(file), "--yes", "--json"))

    after, rows_after = dump(mongo_db), rows()
    assert {name: after[name] for name in after if name not in ("dead_letters", "replay_batches")} == {
        name: before[name] for name in before if name not in ("dead_letters", "replay_batches")
    }
    letters = {document["messageId"]: document for document in map(document_from, before["dead_letters"])}
    restored = {document["messageId"]: document for document in map(document_from, after["dead_letters"])}
    in_replay = {name for name, one in letters.items() if one["status"] == "dlq_processing"}
    assert in_replay >= {"claimed", "running-1"}
    assert {name: one for name, one in restored.items() if name not in in_replay} == {
        name: one for name, one in letters.items() if name not in in_replay
    }
    assert {restored[name]["status"] for name in in_replay} == {"dlq_manual"}
    assert (done["interrupted"], done["held"]) == (len(in_replay), 0)
    assert {name: rows_after[name] for name in ("api_keys", "users")} == {
        name: rows_before[name] for name in ("api_keys", "users")
    }
    # Both commands add their own line.
    assert [line["what"] for line in rows_after["audit"]][-2:] == ["backup", "restore"]
    assert rows_after["audit"][:-2] == rows_before["audit"]
    known_keys.clear()
    assert [one for one in export(client)[:-1] if one["messageId"] not in in_replay] == [
        one for one in exported[:-1] if one["messageId"] not in in_replay
    ]
    assert not User.objects.get(username="olga").has_usable_password()
    assert [group.name for group in User.objects.get(username="olga").groups.all()] == ["operator"]


def test_restored_letters_and_batches_start_nothing(rig: Rig, mongo_db: Any, redis_client: Any, tmp_path: Path) -> None:
    fill(rig)
    file = tmp_path / "backup.tar"
    run("backup", str(file))
    sent = len(rig.sent())
    redis_client.flushall()
    empty(mongo_db, redis_client)
    rig.intake.records.clear()

    told = run("restore", str(file), "--yes", "--hold")

    assert "2 replay batches are paused" in told
    assert "letters with an automatic replay are held" in told
    assert mongo_db.dead_letters.count_documents({"status": {"$in": ["dlq_pending", "dlq_processing"]}}) == 0
    rig.executor().tick()
    assert dead_letters.replay_due().due == 0
    assert len(rig.sent()) == sent
    differing = {one.kind.name for one in reconcile().differences}
    assert differing == set(), differing

    for document in mongo_db.replay_batches.find({"stage": "paused"}):
        batches.resume(document["_id"], actor="key:olga")
        assert rig.run(batches.get(document["_id"])).counts.remaining == 0


def test_a_letter_keeps_its_claim_if_its_message_still_runs(redis_client: Any, mongo_db: Any, tmp_path: Path) -> None:
    """MongoDB alone is restored: the replay in Redis ends, and its letter gets the outcome."""
    from messages_app.tests.test_reconcile import Stack
    from messages_app.tests.test_reconciliation import bury, run_next

    stack = Stack(redis_client, mongo_db)
    bury(ledger(), "m")
    stack.forward("m", stack.claim_letter("m"))
    run("backup", str(tmp_path / "b.tar"))
    mongo_db.dead_letters.delete_many({})

    run("restore", str(tmp_path / "b.tar"), "--yes")
    assert stack.letter("m")["status"] == "dlq_processing"
    run_next(ledger(), well=True)

    assert stack.letter("m")["status"] == "dlq_resolved"


def test_new_messages_get_epochs_above_restored_letters(
    rig: Rig, mongo_db: Any, redis_client: Any, tmp_path: Path
) -> None:
    rig.die("m", epoch=3_000_000_000_000)
    run("backup", str(tmp_path / "b.tar"))
    empty(mongo_db, redis_client)

    run("restore", str(tmp_path / "b.tar"), "--yes")

    assert inspection().lowest_new_epoch() == 3_000_000_000_001
    ledger().accept(an_acceptance(message_id="m"))
    (claimed,) = ledger().claim(token=token(), limit=1, owner="w", holding=0).records
    assert claimed.epoch == 3_000_000_000_001


class Killed(BaseException):
    """The process ends here."""


def test_a_backup_that_is_killed_leaves_no_file(
    rig: Rig, mongo_db: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.die("a")

    def dies(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr("management.archive.os.fsync", dies)
    with pytest.raises(Killed):
        run("backup", str(tmp_path / "b.tar"))

    assert os.listdir(tmp_path) == []
    assert known_backups.last_success() is None


def test_the_next_backup_deletes_what_killed_ones_left(rig: Rig, tmp_path: Path) -> None:
    left, in_progress, of_others = (tmp_path / name for name in (".a.tar.7.dlq-part", ".b.tar.8.dlq-part", ".c.part"))
    for file in (left, in_progress, of_others):
        file.write_bytes(b"x")
    with in_progress.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        run("backup", str(tmp_path / "b.tar"))

    assert sorted(os.listdir(tmp_path)) == [".b.tar.8.dlq-part", ".c.part", "b.tar"]


@pytest.mark.parametrize("page", [1, 3])
def test_a_restore_that_is_killed_continues(
    rig: Rig, mongo_db: Any, redis_client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    fill(rig)
    file, other = tmp_path / "b.tar", tmp_path / "other.tar"
    run("backup", str(file))
    run("backup", str(other))
    redis_client.flushall()
    empty(mongo_db, redis_client)
    monkeypatch.setattr(backup, "_PAGE", 4)
    write, left = Backups.write, [page]

    def dies(self: Backups, name: str, documents: Any) -> int:
        left[0] -= 1
        if left[0] < 0:
            write(self, name, documents[:1])
            raise Killed
        return write(self, name, documents)

    with monkeypatch.context() as patch:
        patch.setattr(Backups, "write", dies)
        with pytest.raises(Killed):
            run("restore", str(file), "--yes")
    (problem,) = known_backups.problems()
    assert problem.code == "restore_unfinished"
    with pytest.raises(CommandError, match=r"b\.tar has not ended"):
        run("restore", str(other), "--yes")
    with pytest.raises(CommandError, match=r"b\.tar has not ended"):
        run("restore", str(file), "--yes", "--hold")

    run("restore", str(file), "--yes")

    archive = Archive(file)
    for name in ("dead_letters", "dlq_groups", "replay_items", "replay_batches"):
        assert mongo_db[name].count_documents({}) == archive.members[name].lines
    assert ApiKey.objects.count() == 1
    assert known_backups.problems() == []


def _flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def _middle_of(name: str) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        with tarfile.open(file) as tar:
            info = tar.getmember(name)
        _flip(file, info.offset_data + info.size // 2)

    return damage


def _cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 4096)


def _manifest_is(text: bytes) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        with tarfile.open(file, "w") as tar:
            info = tarfile.TarInfo("manifest.json")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))

    return damage


def _manifest_lies(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data.replace(b'"lines": 1,', b'"lines": 2,', 1))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_middle_of("dead_letters.jsonl.gz"), "member dead_letters is damaged"),
        (_middle_of("audit.jsonl.gz"), "member audit is damaged"),
        (_cut, "is not a backup|no manifest|is damaged|is incomplete"),
        (_manifest_lies, "lines instead of 2"),
        (_manifest_is(b"[" * 100_000), "manifest.json is damaged"),
        (_manifest_is(b'{"format": 1, "members": {"a": {"lines": 1e400, "bytes": 1, "sha256": ""}}}'), "is damaged"),
        (lambda file: file.write_bytes(b"hello" * 1000), "not a backup"),
        (lambda file: file.write_bytes(b""), "not a backup"),
    ],
    ids=["letters", "audit", "cut", "manifest", "deep", "endless", "text", "empty"],
)
def test_a_damaged_archive_is_refused_and_named(
    rig: Rig, mongo_db: Any, redis_client: Any, tmp_path: Path, damage: Callable[[Path], None], named: str
) -> None:
    rig.die("a")
    file = tmp_path / "b.tar"
    run("backup", str(file))
    empty(mongo_db, redis_client)
    damage(file)

    for line in (("backup", "--verify", str(file)), ("restore", str(file), "--yes")):
        with pytest.raises(CommandError, match=named):
            run(*line)
    assert mongo_db.dead_letters.count_documents({}) == 0


def test_an_archive_of_another_format_is_refused(rig: Rig, tmp_path: Path) -> None:
    file = tmp_path / "b.tar"
    run("backup", str(file))
    file.write_bytes(file.read_bytes().replace(b'"format": 1', b'"format": 9', 1))

    with pytest.raises(ArchiveDamaged, match="reads format 1"):
        Archive(file)


def test_a_restore_needs_an_empty_database_and_stopped_roles(rig: Rig, mongo_db: Any, tmp_path: Path) -> None:
    rig.die("a")
    file = tmp_path / "b.tar"
    run("backup", str(file))

    with pytest.raises(CommandError, match="1 documents in dead_letters"):
        run("restore", str(file), "--yes")
    with pytest.raises(CommandError, match="use --yes"):
        run("restore", str(file))
    mongo_db.dead_letters.delete_many({})
    presence.announce("worker-1", "worker", started_at_ms=1)
    with pytest.raises(CommandError, match="Roles are running: worker"):
        run("restore", str(file), "--yes")
    presence.withdraw("worker-1")

    run("restore", str(file), "--yes")


def test_a_backup_never_replaces_a_file_and_a_folder_gets_a_name_by_time(rig: Rig, tmp_path: Path) -> None:
    taken = tmp_path / "taken.tar"
    taken.write_text("mine")

    with pytest.raises(CommandError, match="exists"):
        run("backup", str(taken))
    with pytest.raises(CommandError, match="no/such"):
        run("backup", str(tmp_path / "no/such/b.tar"))
    run("backup", str(tmp_path))

    assert taken.read_text() == "mine"
    assert [name[:13] for name in os.listdir(tmp_path) if name != "taken.tar"] == ["dlq-backup-20"]


def test_documents_keep_their_types() -> None:
    document: dict[str, Any] = {
        "_id": ObjectId(),
        "numbers": [1, Int64(1), 1.5, float("inf"), Decimal128("1.10"), 2**40],
        "bytes": b"\x00\xff",
        "time": datetime(2026, 1, 1, 0, 0, 0, 123000, tzinfo=UTC),
        "code": Code("x"),
        "looks": [{"$oid": "no id"}, {"$date": 7}, {"$bson": "?"}],
        "text": "\N{SNOWMAN}\u2028\n",
        "none": None,
    }
    other = {**document, "looks": []}

    for one in (document, other):
        again = document_from(line_of(one))
        assert again == one
        assert [type(value) for value in again["numbers"]] == [type(value) for value in one["numbers"]] or (
            type(again["numbers"][5]) is Int64
        )
    assert b'"$oid"' in line_of(other)
    assert document_from(line_of(document_from(line_of(document)))) == document
    for line in (b"[]", b"{}", b"{", b'{"_id": {"$oid": "x"}}', b'{"$bson": "AAAA"}', b'{"$bson": 3}', b"[" * 100_000):
        with pytest.raises(ValueError):  # noqa: PT011
            document_from(line)


def test_a_document_that_cannot_be_read_is_named(rig: Rig, mongo_db: Any, tmp_path: Path) -> None:
    rig.die("a")
    not_utf8 = bson.encode({"_id": "broken", "text": "XYZ"}).replace(b"XYZ", b"\xff\xfe\xfd")
    mongo_db.command({"insert": "dead_letters", "documents": [RawBSONDocument(not_utf8)]})

    with pytest.raises(CommandError, match=r"There is no backup: MongoDB's document broken cannot be read"):
        run("backup", str(tmp_path / "b.tar"))

    assert os.listdir(tmp_path) == []


def test_health_says_when_the_last_backup_is_too_old(
    rig: Rig, mongo_db: Any, tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert known_backups.problems() == []
    assert parts.read_backups().values == {}
    settings.BACKUP_MAX_AGE_H = 26.0
    assert [problem.what[:26] for problem in known_backups.problems()] == ["The last backup is missing"]
    run("backup", str(tmp_path))
    assert known_backups.problems() == []
    last = known_backups.last_success()
    assert last is not None
    assert parts.read_backups().values["dlq_backup_last_success_timestamp_seconds"] == {(): last.timestamp()}

    old = datetime.now(UTC) - timedelta(hours=30)
    mongo_db.dlq_backups.update_one({"_id": "last"}, {"$set": {"at": old}})
    monkeypatch.setattr(store_checks, "backup_problems", known_backups.problems)

    found = store_checks.check_mongodb()
    assert found.status.value == "degraded"
    assert "The last backup is 30 h old. BACKUP_MAX_AGE_H allows 26 h." in found.detail
    settings.BACKUP_MAX_AGE_H = -1.0
    assert [message.id for message in check_backup_age(None)] == ["dlqsite.E020"]
