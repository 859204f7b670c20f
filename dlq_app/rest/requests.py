"""What comes in over REST, checked: query strings and the small JSON bodies of actions."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

from django.http import QueryDict
from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser

from dlq_app.domain.criteria import FIELD_NAMES, LetterCriteria
from dlq_app.domain.errors import BodyTooLarge, CriteriaInvalid, RequestInvalid, sentence
from dlq_app.domain.limits import MAX_NOTE, MAX_NUMBER, MAX_REASON
from dlq_app.domain.paging import MAX_CURSOR, PARAMETERS, PageRequest
from dlq_app.domain.payload import Node, Object, parse, written
from dlq_app.domain.replay_batch import OUTCOME_FILTERS, BatchOrder, Stage
from dlq_app.store import repository
from wire.instants import parse_instant

#: A payload of 256 KiB, escaped, and the few fields around it.
MAX_BODY = 1024 * 1024
#: Batches, and letters of a batch, on one page.
MAX_BATCHES = 100
MAX_ITEMS = 1000
#: Stages that a list of batches can be narrowed to.
STAGES = tuple(stage.value for stage in Stage if stage is not Stage.PLANNING)
_KEY = re.compile(r"[\x21-\x7e]{1,128}\Z")
_CURSOR = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_CURSOR}}}\Z")


class Verbatim(str):
    """JSON text of a value as the client wrote its numbers: ``1.10`` stays so."""


class ActionParser(JSONParser):
    """The parser of every JSON body that Django REST framework reads: at most 1 MiB.

    Nesting and numbers beyond what Python takes are the client's mistake, not a crash.

    A ``payload`` comes as ``Verbatim`` text: what is run shall be what was sent.
    """

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> Any:
        raw = stream.read(MAX_BODY + 1)
        if len(raw) > MAX_BODY:
            raise BodyTooLarge(f"The body may have at most {MAX_BODY} bytes.")
        try:
            found = json.loads(raw, parse_constant=_refuse_constant)
            if not isinstance(found, dict):
                return found
            whole = parse(raw.decode(json.detect_encoding(raw), "surrogatepass"))
            if "payload" in found and isinstance(whole, Object):
                found["payload"] = Verbatim(written(dict(whole.pairs)["payload"]))
        except (ValueError, RecursionError) as error:
            raise ParseError(f"JSON parse error: {str(error)[:200] or 'nested too deep'}") from error
        twice = list(_given_twice(whole, ""))
        if twice:
            # Only one of them would count, and which the client did not say: a filter could fit other letters.
            _invalid([{"field": _shown(name), "message": "is given more than once"} for name in twice], RequestInvalid)
        return found


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


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchListRequest:
    """A page of batches, or of letters of a batch."""

    stages: tuple[str, ...] = ()
    outcome: str | None = None
    limit: int
    cursor: str | None = None


def batches_request(query: QueryDict) -> BatchListRequest:
    """The page of batches that a query string asks for; raises ``CriteriaInvalid`` naming every problem."""
    return _batch_list(query, ("stage", "limit", "cursor"), default=20, most=MAX_BATCHES)


def items_request(query: QueryDict) -> BatchListRequest:
    """The page of a batch's letters that a query string asks for; raises ``CriteriaInvalid`` naming every problem."""
    return _batch_list(query, ("outcome", "limit", "cursor"), default=100, most=MAX_ITEMS)


def _batch_list(query: QueryDict, known: Sequence[str], *, default: int, most: int) -> BatchListRequest:
    found: dict[str, Any] = {"limit": default}
    errors: list[dict[str, str]] = []
    for name, values in list(query.lists())[:50]:
        try:
            if name not in known:
                raise ValueError("unknown parameter; known are " + ", ".join(known))
            if name == "stage":
                found["stages"] = tuple(_one_of(value, STAGES) for value in values)
                continue
            if len(values) != 1:
                raise ValueError("must be given once")
            if name == "limit":
                found[name] = _whole(values[0], most)
            elif name == "outcome":
                found[name] = _one_of(values[0], tuple(OUTCOME_FILTERS))
            elif _CURSOR.match(values[0]):
                found[name] = values[0]
            else:
                raise ValueError("is not a cursor of this list")
        except ValueError as error:
            errors.append({"field": _shown(name), "message": str(error)})
    if errors:
        _invalid(errors, CriteriaInvalid)
    return BatchListRequest(**found)


def batch_order(data: Any) -> tuple[BatchOrder, bool]:
    """The order of a batch, and whether it is only to be tried out; raises ``RequestInvalid`` naming every problem."""
    order = BatchOrder.parse(data)
    return order, bool(data.get("dryRun"))


def batch_id_for(key: str | None, actor: str) -> str | None:
    """The id of the batch that ``actor`` starts with this idempotency key: always the same; None without a key.

    Raises ``RequestInvalid``.
    """
    if key is None:
        return None
    if not _KEY.match(key):
        _invalid(
            [{"field": "Idempotency-Key", "message": "must be 1 to 128 printable ASCII characters"}], RequestInvalid
        )
    return "b-" + hashlib.sha256(f"{actor}\n{key}".encode()).hexdigest()[:32]


def body(data: Any, *names: str, required: Sequence[str] = ()) -> dict[str, Any]:
    """The fields of an action's body, each checked; raises ``RequestInvalid`` naming every problem.

    ``reason``, ``text``: texts; ``force``: a truth; ``payload``: any JSON value, as its UTF-8 text; ``until``: an
    instant to come; ``untilPerHour``, ``untilCount``: whole numbers from 1.
    """
    if not isinstance(data, Mapping):
        _invalid([{"field": "", "message": "must be a JSON object"}], RequestInvalid)
    errors = [
        {"field": _shown(name), "message": "unknown field; known are " + ", ".join(names)}
        for name in list(data)[:50]
        if name not in names
    ]
    errors += [{"field": name, "message": "is required"} for name in required if name not in data]
    errors += [
        {"field": name, "message": "must not be empty"}
        for name in required
        if isinstance(data.get(name), str) and not data[name].strip() and name != "text"
    ]
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


def _given_twice(node: Node, path: str) -> Iterator[str]:
    """Names that an object of a body gives more than once. What a payload repeats is its own."""
    if not isinstance(node, Object):
        return
    for name, times in Counter(name for name, _ in node.pairs).items():
        if times > 1:
            yield f"{path}{name}"
    for name, inner in node.pairs:
        if name != "payload":
            yield from _given_twice(inner, f"{path}{name}.")


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
    if "\0" in value or value != value.encode("utf-8", "replace").decode():
        raise ValueError("must not contain NUL or broken characters")
    return value


def _one_of(value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise ValueError("must be one of " + ", ".join(allowed))
    return value


def _whole(text: str, most: int) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= most:
        raise ValueError(f"must be a whole number from 1 to {most}")
    return int(text)


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _payload(value: object) -> bytes:
    text = value if isinstance(value, Verbatim) else json.dumps(value, ensure_ascii=False)
    # Half of a surrogate pair becomes the escape that it was, so that intake's own check says what is wrong.
    return text.encode("utf-8", "backslashreplace")


def _future(value: object) -> datetime:
    moment = parse_instant(_text(value, 64))
    if moment <= repository.now():
        raise ValueError("must be in the future")
    return moment


def _positive(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_NUMBER:
        raise ValueError(f"must be a whole number from 1 to {MAX_NUMBER}")
    return value


_READERS = {
    "reason": _reason,
    "text": _note,
    "force": _truth,
    "payload": _payload,
    "until": _future,
    "untilPerHour": _positive,
    "untilCount": _positive,
}


def _shown(name: object) -> str:
    return str(name)[:64].encode("utf-8", "backslashreplace").decode()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _invalid(errors: list[dict[str, str]], kind: type[CriteriaInvalid] | type[RequestInvalid]) -> NoReturn:
    raise kind(sentence(errors), errors=errors)
