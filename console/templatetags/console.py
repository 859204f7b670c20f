"""Template tags of the console: icons, badges, times, numbers. Text from outside is escaped."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from console import commands
from console.trace_links import trace_url
from wire import visible_text

register = template.Library()

_NAME = re.compile(r"[a-z]+\Z")

#: State → tone, icon, label. Colour is never the only difference between states.
BADGES: dict[str, tuple[str, str, str]] = {
    # dead letters
    "dlq_pending": ("warn", "clock", "Pending"),
    "dlq_processing": ("busy", "spin", "Processing"),
    "dlq_resolved": ("ok", "check", "Resolved"),
    "dlq_failed": ("bad", "octx", "Failed"),
    "dlq_manual": ("hand", "hand", "Needs a decision"),
    # messages
    "queued": ("mute", "clock", "Queued"),
    "scheduled": ("mute", "clock", "Scheduled"),
    "running": ("busy", "spin", "Running"),
    "retry_wait": ("warn", "clock", "Waiting for a retry"),
    "done": ("ok", "check", "Done"),
    "dead_pending": ("bad", "octx", "Dying"),
    "dead": ("bad", "octx", "Dead"),
    "void": ("mute", "slash", "Void"),
    # breakers
    "CLOSED": ("ok", "ring", "CLOSED"),
    "OPEN": ("solid", "ringopen", "OPEN"),
    "HALF_OPEN": ("warn", "half", "HALF-OPEN"),
    "FORCED_OPEN": ("outline", "lock", "FORCED OPEN"),
    "DISABLED": ("mute", "slash", "DISABLED"),
    "METRICS_ONLY": ("mute", "info", "METRICS ONLY"),
    # replay batches
    "planning": ("mute", "clock", "Planning"),
    "planned": ("mute", "clock", "Planned"),
    "canary": ("busy", "half", "Canary"),
    "paused": ("warn", "pause", "Paused"),
    "finished": ("ok", "check", "Finished"),
    "cancelled": ("mute", "x", "Cancelled"),
    "stopped": ("bad", "octx", "Stopped"),
    # items of a batch
    "succeeded": ("ok", "check", "Succeeded"),
    "failed_same": ("bad", "x", "Failed the same"),
    "failed_new": ("bad", "octx", "Failed, new error"),
    "skipped": ("mute", "skip", "Skipped"),
    "open": ("busy", "spin", "In flight"),
    # groups
    "new": ("bad", "tri", "New"),
    "ongoing": ("warn", "flat", "Ongoing"),
    "regressed": ("bad", "replay", "Regressed"),
    "resolved": ("ok", "check", "Resolved"),
    "ignored": ("mute", "eyeoff", "Ignored"),
    # health
    "healthy": ("ok", "check", "OK"),
    "degraded": ("warn", "tri", "Degraded"),
    "unhealthy": ("bad", "octx", "Down"),
}


@register.filter
def visible(value: Any) -> str:
    """The text with invisible and direction-changing characters written as ``\\u202e``."""
    return visible_text.visible(str(value))


@register.filter
def shell(value: Any) -> str:
    """The text as one argument of a shell command that users copy."""
    return visible_text.shell_word(str(value))


@register.simple_tag
def manage(command: str, *ids: Any, reason: bool = False) -> str:
    """A command to copy, as it is called on the hosts of this installation; with ``reason`` it needs one."""
    return commands.manage(command, [commands.reason_flag("")] if reason else [], [str(one) for one in ids])


@register.simple_tag
def curl_with_reason(url: str) -> str:
    """A request to copy that needs a reason."""
    return commands.curl(url, {}, method="POST", asks="reason")


@register.simple_tag
def icon(name: str, extra: str = "") -> SafeString:
    """An icon of the sprite, hidden from screen readers. ``extra`` are more classes."""
    if not _NAME.match(name):
        raise ValueError(f"{name!r} is no name of an icon")
    classes = f"ic {extra}".strip()
    return format_html('<svg class="{}" aria-hidden="true"><use href="#i-{}"></use></svg>', classes, name)


@register.simple_tag
def badge(tone: str, icon_name: str, text: Any) -> SafeString:
    """A badge in one of the tones ok, warn, bad, busy, hand, mute, solid, outline."""
    return format_html('<span class="badge {}">{}{}</span>', tone, icon(icon_name), text)


@register.simple_tag
def status_badge(status: Any, text: Any = "") -> SafeString:
    """The badge of a status, state or stage; an unknown one is shown as text. ``text`` replaces the label."""
    known = str(getattr(status, "value", status))
    tone, icon_name, word = BADGES.get(known, ("mute", "info", known or "unknown"))
    return badge(tone, icon_name, text or word)


@register.simple_tag
def trace_link(trace_id: str) -> SafeString:
    """A trace id, linked to the tracing system if ``TRACE_URL_TEMPLATE`` names one."""
    url = trace_url(trace_id)
    if not url:
        return format_html("{}", trace_id)
    return format_html('<a href="{}" rel="noreferrer">{}</a>', url, trace_id)


@register.simple_tag
def live(seconds: int, as_of: datetime, oob: bool = False) -> SafeString:
    """Age of the figures, in the page head; in a fragment, ``oob=True`` replaces the one in the head."""
    clock = as_of.astimezone(UTC).strftime("%H:%M:%S")
    return format_html(
        '<span class="live" id="live-status" data-live-status data-as-of="{}"{}><span class="dot"></span>'
        "<span data-words>Live, every {} s · {} UTC</span></span>",
        clock,
        SafeString(' hx-swap-oob="true"') if oob else "",
        seconds,
        clock,
    )


@register.filter
def instant(value: Any) -> str:
    """A time as UTC, ``YYYY-MM-DD HH:MM:SS``; an em dash without one."""
    moment = _moment(value)
    return moment.strftime("%Y-%m-%d %H:%M:%S") if moment else "—"


@register.filter
def clock(value: Any) -> str:
    """A time of today as ``HH:MM:SS``, another as ``24 Nov 03:12``, one of another year with the year."""
    moment = _moment(value)
    if moment is None:
        return "—"
    now = datetime.now(UTC)
    if moment.date() == now.date():
        return moment.strftime("%H:%M:%S")
    return moment.strftime("%-d %b %H:%M" if moment.year == now.year else "%-d %b %Y %H:%M")


@register.filter
def iso(value: Any) -> str:
    """A time for machines, as in ``<time datetime>``."""
    moment = _moment(value)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z") if moment else ""


@register.filter
def ago(value: Any) -> str:
    """How long ago, ``4 h 12 min ago``; ``in 8 s`` for the future; an em dash without a time."""
    moment = _moment(value)
    if moment is None:
        return "—"
    seconds = (datetime.now(UTC) - moment).total_seconds()
    if abs(seconds) < 1:
        return "just now"
    return f"{duration(seconds)} ago" if seconds > 0 else f"in {duration(-seconds)}"


@register.filter
def duration(value: Any) -> str:
    """Seconds (or a timedelta) in one or two units: ``340 ms``, ``8.2 s``, ``48 s``, ``4 h 12 min``, ``3 d 4 h``."""
    if value is None or value == "":
        return "—"
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = int(seconds)
    for unit, size, below, below_size in (("d", 86_400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // below_size
            return f"{whole // size} {unit} {rest} {below}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


@register.filter
def short(value: Any) -> str:
    """A number in up to four characters: ``999``, ``1.2k``, ``43k``, ``1.2M``."""
    if value is None or value == "":
        return "—"
    number = float(value)
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            scaled = number / size
            return (f"{scaled:.1f}".removesuffix(".0") if abs(scaled) < 9.95 else f"{scaled:.0f}") + unit
    return f"{number:.0f}" if number == int(number) or abs(number) >= 100 else f"{number:.1f}"


@register.filter
def thousands(value: Any) -> str:
    """A whole number with commas: ``43,378``."""
    return "—" if value is None or value == "" else f"{int(value):,}"


def _moment(value: Any) -> datetime | None:
    try:
        if isinstance(value, datetime):
            return value.astimezone(UTC)
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value / 1000, UTC)
        return datetime.fromisoformat(value).astimezone(UTC) if isinstance(value, str) and value else None
    except (ValueError, OverflowError, OSError):
        return None  # no time, or one beyond the calendar
