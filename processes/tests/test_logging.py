"""A line can be logged with what is given to it: a name that its record has itself raises in the thread that logs."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
APPS = ("processes", "messages_app", "dlq_app", "breaker_app", "dlqsite", "management")
RESERVED = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def reserved(source: str) -> list[str]:
    """The names in what is given as ``extra`` that no line can have."""
    if "extra" not in source:
        return []
    nodes = list(ast.walk(ast.parse(source)))
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    given = [word.value for call in calls for word in call.keywords if word.arg == "extra"]
    called = {part.id for value in given for part in ast.walk(value) if isinstance(part, ast.Name)}
    # What it is made of elsewhere: a variable or a function of that name, wherever it is in the file.
    for node in nodes:
        if isinstance(node, ast.FunctionDef) and node.name in called:
            given += [one.value for one in ast.walk(node) if isinstance(one, ast.Return) and one.value]
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name) and target.id in called:
                    given.append(node.value)
                elif isinstance(target, ast.Subscript) and getattr(target.value, "id", "") in called:
                    given.append(ast.Dict([target.slice], [node.value]))
    return sorted(RESERVED & {name for value in given for name in _names(value)})


def _names(given: ast.expr) -> Iterator[str]:
    for node in ast.walk(given):
        if isinstance(node, ast.Dict):
            yield from (key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str))
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "dict":
            yield from (word.arg for word in node.keywords if word.arg)


def test_no_line_is_logged_with_a_name_that_its_record_has() -> None:
    sources = [path for app in APPS for path in (ROOT / app).rglob("*.py") if "tests" not in path.parts]

    found = {str(path.relative_to(ROOT)): names for path in sources if (names := reserved(path.read_text("utf-8")))}

    assert len(sources) > 100
    assert found == {}


def test_such_a_name_is_found_wherever_it_is_written() -> None:
    source = """
def whose(): return {"module": 1, "id": 2}
more = {"thread": 1}
more["levelname"] = 2
log.info("a", extra={"pid": 1, "process": 2, **whose()})
log.info("b", extra=more)
log.info("c", extra={**others, "name": 1})
log.info("d", extra=dict(args=1))
fine = {"message": 1}
"""

    assert reserved(source) == ["args", "levelname", "module", "name", "process", "thread"]
