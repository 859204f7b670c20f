"""The state of the process at the moment something fails."""

from __future__ import annotations

from dlq_app.environment import Environment


def test_it_tells_where_it_happened() -> None:
    state = Environment(code_version="1.2.3").snapshot("worker-1")

    assert set(state) == {"cpu", "memory", "uptime", "host", "worker", "codeVersion"}
    assert (state["worker"], state["codeVersion"]) == ("worker-1", "1.2.3")
    assert 0 < state["memory"] <= 100
    assert state["uptime"] >= 0


def test_it_measures_at_most_once_a_second() -> None:
    now = [10.0]
    measured: list[float] = []

    class Counted(Environment):
        def _measure(self) -> dict[str, object]:
            measured.append(now[0])
            return {"cpu": float(len(measured))}

    environment = Counted(clock=lambda: now[0])
    states = []
    for moment in (10.0, 10.5, 10.99, 11.0, 11.5):
        now[0] = moment
        states.append(environment.snapshot("w")["cpu"])

    assert states == [1.0, 1.0, 1.0, 2.0, 2.0]
    assert measured == [10.0, 11.0]


def test_a_snapshot_is_the_callers_own() -> None:
    environment = Environment()

    environment.snapshot("a")["host"] = "changed"

    assert environment.snapshot("b")["host"] != "changed"
