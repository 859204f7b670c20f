"""Reads the whole ledger in pages, to compare it with itself and with the dead letters, and repairs its indexes.

Reading is cheap for the server: no call takes longer than a page of it. Memory does not depend on the number of
messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from django.conf import settings

from messages_app.domain.ledger_rules import Located, RecordState
from messages_app.store.connection import ScriptCaller, connection
from messages_app.store.ledger_server import terms_from_settings
from messages_app.store.scripts import shipped
from processes.once import OncePerProcess

#: Keys looked at by one SCAN, and records read by one script: about 3 ms of the server each.
_SCANNED = 1000
_READ = 200
_PARTS = ("msg", "body", "story", "run")
INDEXES = (
    *(f"waiting:{lane}" for lane in ("high", "normal", "low", "alone")),
    *(f"due:{state}" for state in ("scheduled", "retry_wait", "running")),
    "outbox",
)
_QUARANTINE = "quarantine"


class Keys(NamedTuple):
    """A page of the ledger's keys: message ids by what the key holds. An id can come twice."""

    records: list[str]
    #: Ids of payloads, stories and edited contents.
    parts: list[str]


class Inspection:
    """Reads of one ledger. Thread-safe."""

    def __init__(self) -> None:
        self._prefix: str = settings.REDIS_PREFIX
        self._scripts = ScriptCaller(connection(), self._prefix, shipped())
        self._connections = self._scripts.connections

    def scan(self) -> Iterator[Keys]:
        """Every message, at least once if it exists during the whole scan."""
        heads = {f"{self._prefix}{part}:".encode(): part for part in _PARTS}
        cursor: bytes | str = "0"
        while True:
            cursor, found = self._connections.call("SCAN", cursor, "COUNT", _SCANNED)
            page = Keys([], [])
            for key in found:
                for head, part in heads.items():
                    if key.startswith(head):
                        into = page.records if part == "msg" else page.parts
                        into.append(key[len(head) :].decode(errors="backslashreplace"))
            yield page
            if cursor in (b"0", "0"):
                return

    def indexed(self) -> Iterator[list[str]]:
        """The message ids in all indexes and in quarantine; an id can come more than once."""
        for name, command in [*((index, "ZSCAN") for index in INDEXES), (_QUARANTINE, "HSCAN")]:
            cursor: bytes | str = "0"
            while True:
                cursor, flat = self._connections.call(command, self._prefix + name, cursor, "COUNT", _SCANNED)
                yield [member.decode(errors="backslashreplace") for member in flat[::2]]
                if cursor in (b"0", "0"):
                    break

    def located(self, message_ids: Sequence[str], *, every: bool = False) -> list[Located]:
        """The records with the indexes that contain them, each at one instant. ``every``: also of ended messages."""
        found: list[Located] = []
        for first in range(0, len(message_ids), _READ):
            ids = message_ids[first : first + _READ]
            now_ms, *rows = self._scripts.run("inspect", int(every), *ids)
            found += [_located(name, int(now_ms), row) for name, row in zip(ids, rows, strict=True)]
        return found

    def states(self, message_ids: Sequence[str]) -> Mapping[str, RecordState]:
        """State, epoch and outcome of those messages that have a record."""
        rows = self._connections.call_many(
            [("HMGET", f"{self._prefix}msg:{name}", "state", "epoch", "outbox", "replayId") for name in message_ids]
        )
        found = {}
        for name, row in zip(message_ids, rows, strict=True):
            if not isinstance(row, list) or not row[0] or not (row[1] or b"").isdigit():
                continue
            state, epoch, outbox, replay_id = ((value or b"").decode(errors="backslashreplace") for value in row)
            found[name] = RecordState(state, int(epoch), outbox, replay_id)
        return found

    def without_expiry(self, message_ids: Sequence[str]) -> list[str]:
        """Those ids without a record of which a payload, story or edited content never expires."""
        commands = [("EXISTS", f"{self._prefix}msg:{name}") for name in message_ids]
        commands += [("PTTL", f"{self._prefix}{part}:{name}") for name in message_ids for part in _PARTS[1:]]
        answers = self._connections.call_many(commands)
        exist, ttls = answers[: len(message_ids)], answers[len(message_ids) :]
        return [
            name
            for place, name in enumerate(message_ids)
            if not exist[place] and -1 in ttls[place * (len(_PARTS) - 1) : (place + 1) * (len(_PARTS) - 1)]
        ]

    def reindex(self, message_ids: Sequence[str]) -> int:
        """Put messages into the index of their state, with its expiry; return how many changed.

        Safe at any time: a message that moves meanwhile is put where its new record says.
        """
        changed = 0
        for first in range(0, len(message_ids), _READ):
            ids = message_ids[first : first + _READ]
            changed += sum(map(bool, self._scripts.run("reindex", terms_from_settings().record_ttl_ms, *ids)))
        return changed

    def lowest_new_epoch(self, at_least: int = 0) -> int:
        """The lowest epoch that the next new message gets, raised to ``at_least``. It never falls."""
        return int(self._scripts.run("raise", at_least))


def _located(message_id: str, now_ms: int, row: list[object]) -> Located:
    fields, ttl, body_ttl, edited_missing, woken, places = row
    texts = [field.decode(errors="backslashreplace") for field in fields]  # type: ignore[attr-defined]
    state, epoch, _, outbox, account, replay_id, due_at, lease_until, _, _, wake_at, _ = texts
    flat = [place.decode() for place in places]  # type: ignore[attr-defined]
    return Located(
        message_id=message_id,
        now_ms=now_ms,
        state=state,
        epoch=epoch,
        outbox=outbox,
        account=account,
        replay_id=replay_id,
        due_at_ms=_number(due_at),
        lease_until_ms=_number(lease_until),
        wake_at_ms=_number(wake_at),
        ttl_ms=int(ttl),  # type: ignore[call-overload]
        body_ttl_ms=int(body_ttl),  # type: ignore[call-overload]
        lacks_edited=bool(edited_missing),
        has_wake_up=bool(woken),
        places=dict(zip(flat[::2], map(float, flat[1::2]), strict=True)),
    )


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


@OncePerProcess
def inspection() -> Inspection:
    """The reads of the ledger in the settings."""
    return Inspection()
