"""Who is notified of what, when and where: ``notify.toml``, validated."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from notify_app.domain.events import CHOICES, OF_LETTERS, Event, Severity
from wire.errors import PolicyError
from wire.fields import Reader, integer, list_of, matching, one_of, text
from wire.policy import InvalidValue, Readers, read_table, refuse_unknown_tables, table

APPRISE, WEBHOOK = "apprise", "webhook"
MAX_RECIPIENTS = 20
#: Two during a rotation; a third allows for an unfinished rotation.
MAX_SECRETS = 3
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_TIME = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")
_NAMES = "a list of 1 to 50 different texts of at most 128 characters"
_SECRETS = f"a list of 1 to {MAX_SECRETS} names of environment variables"


def _time(value: object) -> time:
    return time.fromisoformat(matching(_TIME, 'a time of day such as "08:00"')(value))


def _zone(value: object) -> ZoneInfo:
    try:
        return ZoneInfo(value) if isinstance(value, str) and value else _no_zone()
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return _no_zone()


def _no_zone() -> ZoneInfo:
    raise ValueError('must be the name of a time zone, such as "Europe/Berlin"')


def _texts() -> Reader[tuple[str, ...]]:
    return list_of(text(128, empty=False), 1, 50, _NAMES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quiet:
    """Hours in which notifications are held back. ``begin`` after ``end``: over midnight."""

    begin: time
    end: time
    zone: ZoneInfo
    #: ``send``: critical notifications are sent all the same; ``hold``: they wait, too.
    critical: str = "send"

    def until(self, now: datetime) -> datetime | None:
        """End of the quiet hours that ``now`` is in; None outside them."""
        local = now.astimezone(self.zone)
        clock = local.time().replace(tzinfo=None)
        if self.begin < self.end:
            inside, days = self.begin <= clock < self.end, 0
        else:
            inside, days = clock >= self.begin or clock < self.end, int(clock >= self.begin)
        if not inside:
            return None
        # In autumn one hour comes twice: in its second pass, so is the end.
        end = self.end.replace(fold=local.fold)
        return datetime.combine(local.date() + timedelta(days=days), end, tzinfo=self.zone).astimezone(now.tzinfo)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """One address and what is sent there. Empty filters match everything."""

    name: str
    channel: str
    #: Name of the environment variable with the address: it can contain passwords and tokens.
    url_env: str
    #: Names of environment variables with the signing secrets of a webhook, newest first.
    secrets: tuple[str, ...] = field(default=(), repr=False)
    events: tuple[str, ...] = CHOICES
    severities: tuple[str, ...] = tuple(Severity)
    error_types: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    quiet: Quiet | None = None

    def wants(self, event: Event) -> bool:
        """Whether it is notified of this event."""
        if event.kind not in self.events or event.severity not in self.severities:
            return False
        if event.kind not in OF_LETTERS:
            return True
        return all(
            not wanted or set(wanted) & set(found)
            for wanted, found in (
                (self.error_types, event.error_types),
                (self.types, event.types),
                (self.sources, event.sources),
            )
        )

    def held_until(self, severity: str, now: datetime) -> datetime | None:
        """When quiet hours let a notification pass; None: now."""
        if self.quiet is None or (severity == Severity.CRITICAL and self.quiet.critical == "send"):
            return None
        return self.quiet.until(now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """The summary of each morning."""

    recipients: tuple[str, ...] = ()
    time: time = time(8, 0)
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Numbers that apply to all recipients."""

    #: Age of the oldest open letter of which users are notified.
    oldest_letter_hours: int = 24
    #: How long health must be unhealthy, or degraded, before users are notified.
    unhealthy_minutes: int = 5
    degraded_minutes: int = 30
    #: New groups that one look reports one by one; the rest share a notification.
    groups_at_once: int = 10
    #: How long a notification is tried again; then it is ``failed``.
    give_up_hours: int = 6
    #: How long notifications are kept.
    keep_days: int = 30


_LIMITS: Readers = {
    "oldest_letter_hours": integer(1, 8760),
    "unhealthy_minutes": integer(1, 1440),
    "degraded_minutes": integer(1, 10_080),
    "groups_at_once": integer(1, 100),
    "give_up_hours": integer(1, 168),
    "keep_days": integer(1, 365),
}
_DIGEST: Readers = {
    "time": _time,
    "zone": _zone,
    "recipients": list_of(matching(_NAME, "a name"), 1, MAX_RECIPIENTS, "a list of names of recipients"),
}
_QUIET: Readers = {"from": _time, "to": _time, "zone": _zone, "critical": one_of(("send", "hold"))}
_RECIPIENT: Readers = {
    "channel": one_of((APPRISE, WEBHOOK)),
    "url_env": matching(_VARIABLE, "the name of an environment variable, such as TEAM_URL"),
    "secrets": list_of(matching(_VARIABLE, _SECRETS), 1, MAX_SECRETS, _SECRETS),
    "events": list_of(one_of(CHOICES), 1, len(CHOICES), f"a list of {', '.join(CHOICES)}"),
    "severities": list_of(one_of(tuple(Severity)), 1, len(Severity), f"a list of {', '.join(Severity)}"),
    "error_types": _texts(),
    "types": _texts(),
    "sources": _texts(),
    # A table of its own, read below.
    "quiet": lambda value: value,
}
#: Keys of each table, for the pages and the tests that compare them.
KEYS: Mapping[str, tuple[str, ...]] = {
    "recipients": tuple(_RECIPIENT),
    "quiet": tuple(_QUIET),
    "digest": tuple(_DIGEST),
    "limits": tuple(_LIMITS),
}


@dataclass(frozen=True, slots=True)
class NotifyPolicy:
    """All recipients by name, the digest and the limits."""

    recipients: Mapping[str, Recipient]
    digest: Digest
    limits: Limits
    #: Where it was read, as messages name it.
    file: str

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, file: str) -> NotifyPolicy:
        """Read ``{"recipients": {"team": {…}}, "digest": {…}, "limits": {…}}``. Raises ``PolicyError``."""
        refuse_unknown_tables(values, ("recipients", "digest", "limits"), file)
        tables = table(values, "recipients", file)
        if len(tables) > MAX_RECIPIENTS:
            raise PolicyError(f"{file} [recipients]: at most {MAX_RECIPIENTS} recipients, not {len(tables)}")
        recipients = {name: _recipient(name, table(tables, name, f"{file} [recipients]"), file) for name in tables}
        limits = Limits(**read_table(table(values, "limits", file), _LIMITS, f"{file} [limits]"))
        where = f"{file} [digest]"
        digest = Digest(**read_table(table(values, "digest", file), _DIGEST, where))
        for name in digest.recipients:
            if name not in recipients:
                known = ", ".join(recipients) or "none"
                raise InvalidValue(where, "recipients", name, f"must name tables of [recipients]; known are {known}")
        return cls(recipients, digest, limits, file)


def _recipient(name: str, values: Mapping[str, Any], file: str) -> Recipient:
    where = f"{file} [recipients.{name}]"
    if not _NAME.fullmatch(name):
        raise PolicyError(f"{where}: the name must be 1 to 40 letters, digits, - and _")
    given = read_table(values, _RECIPIENT, where)
    for key in ("channel", "url_env"):
        if key not in given:
            raise PolicyError(f"{where}: {key} is required")
    if given["channel"] == WEBHOOK and not given.get("secrets"):
        raise PolicyError(f"{where}: secrets is required for a webhook: {_SECRETS}")
    if given["channel"] == APPRISE and "secrets" in given:
        raise InvalidValue(where, "secrets", values["secrets"], 'must be left out with channel = "apprise"')
    if "quiet" in given:
        given["quiet"] = _quiet(table(values, "quiet", where), f"{file} [recipients.{name}.quiet]")
    return Recipient(name=name, **given)


def _quiet(values: Mapping[str, Any], where: str) -> Quiet:
    given = read_table(values, _QUIET, where)
    for key in ("from", "to", "zone"):
        if key not in given:
            raise PolicyError(f"{where}: {key} is required")
    if given["from"] == given["to"]:
        raise InvalidValue(where, "to", values["to"], "must differ from `from`")
    return Quiet(begin=given.pop("from"), end=given.pop("to"), **given)
