"""What comes in over REST, checked: query strings and the small JSON bodies of actions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from django.http import QueryDict
from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser

from dlq_app.criteria import FIELD_NAMES, LetterCriteria
from dlq_app.errors import BodyTooLarge, CriteriaInvalid, RequestInvalid
from dlq_app.paging import PARAMETERS, PageRequest

#: A payload of 256 KiB, escaped, and the few fields around it.
MAX_BODY = 1024 * 1024
MAX_REASON = 2000
MAX_NOTE = 4000


class ActionParser(JSONParser):
    """JSON of at most 1 MiB; nesting and numbers beyond what Python takes are the client's mistake, not a crash."""

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> Any:
        raw = stream.read(MAX_BODY + 1)
        if len(raw) > MAX_BODY:
            raise BodyTooLarge(f"The body may have at most {MAX_BODY} bytes.")
        try:
            return json.loads(raw, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ParseError(f"JSON parse error: {str(error)[:200] or 'nested too deep'}") from error


def list_request(query: QueryDict) -> tuple[LetterCriteria, PageRequest]:
    """Criteria and page of a query string; raises ``CriteriaInvalid`` naming every problem in either."""
    errors: list[dict[str, str]] = []
    criteria, page = LetterCriteria(), PageRequest()
    lists = dict(query.lists())
    unknown = [name for name in lists if name not in (*FIELD_NAMES, *PARAMETERS)]
    known = ", ".join((*FIELD_NAMES, *PARAMETERS))
    errors += [{"field": name[:64], "message": f"unknown parameter; known are {known}"} for name in unknown[:50]]
    try:
        criteria = LetterCriteria.parse({name: lists[name] for name in FIELD_NAMES if name in lists})
    except CriteriaInvalid as error:
        errors += error.errors
    try:
        page = PageRequest.parse({name: lists[name] for name in PARAMETERS if name in lists})
    except CriteriaInvalid as error:
        errors += error.errors
    if errors:
        _invalid(errors, CriteriaInvalid)
    return criteria, page


def refuse_parameters(query: QueryDict) -> None:
    """Raise ``CriteriaInvalid`` for any query parameter: this address takes none."""
    if query:
        _invalid([{"field": name[:64], "message": "unknown parameter"} for name in list(query)[:50]], CriteriaInvalid)


def body(data: Any, *names: str, required: Sequence[str] = ()) -> dict[str, Any]:
    """The fields of an action's body, each checked; raises ``RequestInvalid`` naming every problem.

    ``reason``, ``text``: texts; ``force``: a truth; ``payload``: any JSON value, as its UTF-8 text.
    """
    if not isinstance(data, Mapping):
        _invalid([{"field": "", "message": "must be a JSON object"}], RequestInvalid)
    errors = [
        {"field": _shown(name), "message": "unknown field; known are " + ", ".join(names)}
        for name in list(data)[:50]
        if name not in names
    ]
    errors += [{"field": name, "message": "is required"} for name in required if name not in data]
    found: dict[str, Any] = {}
    for name in names:
        if name in data:
            try:
                found[name] = _READERS[name](data[name])
            except ValueError as error:
                errors.append({"field": name, "message": str(error)})
    if errors:
        _invalid(errors, RequestInvalid)
    return found


def _reason(value: object) -> str:
    return _text(value, MAX_REASON)


def _note(value: object) -> str:
    text = _text(value, MAX_NOTE)
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def _text(value: object, limit: int) -> str:
    if not isinstance(value, str) or len(value) > limit:
        raise ValueError(f"must be a text of at most {limit} characters")
    return value


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _payload(value: object) -> bytes:
    # A lone surrogate makes text that is no UTF-8: kept as it is, so that intake's own check says so.
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


_READERS = {"reason": _reason, "text": _note, "force": _truth, "payload": _payload}


def _shown(name: object) -> str:
    return str(name)[:64].encode("utf-8", "backslashreplace").decode()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _invalid(errors: list[dict[str, str]], kind: type[CriteriaInvalid] | type[RequestInvalid]) -> NoReturn:
    raise kind("; ".join(f"{e['field']}: {e['message']}" for e in errors[:5]), errors=errors)
