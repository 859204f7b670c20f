"""Curves and lanes as geometry: what the console draws without a script, and the numbers a script draws from. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

#: The drawing's own units; the page stretches it.
WIDTH, HEIGHT = 600, 100
#: Seconds that a stretch of trouble is drawn as at least, in a lane of an hour.
MIN_WIDTH_S = 30

Rates = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a chart: a path, and the path of the area below it."""

    name: str
    line: str
    area: str
    #: What it stands at now; None when nobody knows.
    now: float | None


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves over one stretch of time."""

    curves: tuple[Curve, ...]
    #: What the lines of the grid stand for, from the top.
    scale: tuple[float, ...]
    #: Heights of the grid's lines in the drawing, from the top.
    grid: tuple[float, ...]
    #: Start and end of the drawn time, epoch ms, and the labels below it.
    start_ms: int
    end_ms: int
    labels_ms: tuple[int, ...]
    #: The same as numbers: epoch seconds in the middle of each span, then the rates by curve.
    times: tuple[float, ...]
    rates: dict[str, tuple[float | None, ...]]
    is_empty: bool


def chart(series: dict[str, Rates], start_ms: int, width_ms: int, *, steps: int) -> Chart:
    """Rates by name, one for each span of ``width_ms`` from ``start_ms``, over a grid of ``steps`` rows."""
    number = len(next(iter(series.values())))
    known = [rate for rates in series.values() for rate in rates if rate is not None]
    top = nice_top(max(known, default=0.0), steps)
    end_ms = start_ms + number * width_ms
    return Chart(
        curves=tuple(_curve(name, rates, top) for name, rates in series.items()),
        scale=tuple(top * (steps - step) / steps for step in range(steps + 1)),
        grid=tuple(round(HEIGHT * step / steps, 1) for step in range(steps + 1)),
        start_ms=start_ms,
        end_ms=end_ms,
        labels_ms=tuple(start_ms + (end_ms - start_ms) * quarter // 4 for quarter in range(5)),
        times=tuple((start_ms + (place + 0.5) * width_ms) / 1000 for place in range(number)),
        rates={
            name: tuple(None if rate is None else round(rate, 3) for rate in rates) for name, rates in series.items()
        },
        is_empty=not known,
    )


def nice_top(most: float, steps: int) -> float:
    """A round number at or above ``most`` that divides well into ``steps``."""
    if most <= 0:
        return float(steps)
    step = most / steps
    power = 10.0 ** floor(log10(step))
    for factor in (1, 2, 2.5, 3, 4, 5, 10):
        if factor * power >= step * (1 - 1e-9):
            return float(factor * power * steps)
    return float(ceil(step / power) * power * steps)


def _curve(name: str, rates: Rates, top: float) -> Curve:
    width = WIDTH / max(len(rates) - 1, 1)
    line: list[str] = []
    area: list[str] = []
    for first, last in _stretches(rates):
        points = [
            f"{place * width:.1f} {HEIGHT * (1 - min((rates[place] or 0.0) / top, 1.0)):.1f}"
            for place in range(first, last + 1)
        ]
        if len(points) == 1:  # a lone value would not be seen
            points.append(f"{min(first * width + 2, WIDTH):.1f} {points[0].split()[1]}")
        line.append("M" + " L".join(points))
        area.append(f"M{first * width:.1f} {HEIGHT} L" + " L".join(points) + f" L{last * width:.1f} {HEIGHT} Z")
    return Curve(
        name, " ".join(line), " ".join(area), next((rate for rate in reversed(rates) if rate is not None), None)
    )


def _stretches(rates: Rates) -> list[tuple[int, int]]:
    """First and last place of each run of known rates."""
    found: list[tuple[int, int]] = []
    start: int | None = None
    for place, rate in enumerate([*rates, None]):
        if rate is not None and start is None:
            start = place
        elif rate is None and start is not None:
            found.append((start, place - 1))
            start = None
    return found


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of one state in a lane, in seconds from the lane's start."""

    state: str
    x: int
    width: int


def lane(changes: Sequence[tuple[int, str, str]], now_state: str, start_ms: int, end_ms: int) -> tuple[Span, ...]:
    """The states between two times; ``changes`` as (at ms, from, to), oldest first.

    Short stretches of other states than CLOSED are drawn a little wider: a breaker that opened for a second is seen.
    """
    inside = [change for change in changes if start_ms <= change[0] < end_ms]
    before = [change for change in changes if change[0] < start_ms]
    state = inside[0][1] if inside else (before[-1][2] if before else now_state)
    spans: list[Span] = []
    at = start_ms
    for moment, _, to in inside:
        _add(spans, state, at, moment, start_ms)
        at, state = moment, to
    _add(spans, state, at, end_ms, start_ms)
    return tuple(spans)


def _add(spans: list[Span], state: str, from_ms: int, to_ms: int, start_ms: int) -> None:
    x, end = (from_ms - start_ms) // 1000, (to_ms - start_ms) // 1000
    if state != "CLOSED" and end - x < MIN_WIDTH_S:
        x, end = max(min(x, end - MIN_WIDTH_S), 0), max(min(x, end - MIN_WIDTH_S), 0) + MIN_WIDTH_S
    spans.append(Span(state, x, end - x))
