"""Readers of query strings and the parser of JSON bodies."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from django.http import QueryDict
from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser

from dlq_app.domain.criteria import FIELD_NAMES, LetterCriteria
from dlq_app.domain.errors import BodyTooLarge, CriteriaInvalid, RequestInvalid
from dlq_app.domain.filters import filter_named
from dlq_app.domain.paging import PARAMETERS, PageRequest
from dlq_app.domain.payload import Node, Object, parse, written
from dlq_app.domain.replay_batch import OUTCOME_FILTERS, Stage
from wire.cursor import check as check_cursor
from wire.fields import (
    FieldError,
    digits,
    field_error,
    one_of,
    single,
    summary,
    unknown_field,
)

#: Enough for an escaped payload of 256 KiB and the other fields.
MAX_BODY = 1024 * 1024
#: Maximum number of batches, and of letters of a batch, on one page.
MAX_BATCHES = 100
MAX_ITEMS = 1000
#: Stages to filter a list of batches by.
STAGES = tuple(stage.value for stage in Stage if stage is not Stage.PLANNING)
_KEY = re.compile(r"[\x21-\x7e]{1,128}\Z")


class Verbatim(str):
    """JSON text of a value with its numbers as the client wrote them: ``1.10`` stays ``1.10``."""


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
            # Only one of them would apply: a filter could match other letters than intended.
            _invalid([field_error(name, "is given more than once") for name in twice], RequestInvalid)
        return found


def list_request(query: QueryDict) -> tuple[LetterCriteria, PageRequest]:
    """Criteria and page of a query string; raises ``CriteriaInvalid`` with every problem."""
    errors: list[FieldError] = []
    criteria, page = LetterCriteria(), PageRequest()
    lists = dict(query.lists())
    unknown = [name for name in lists if not (filter_named(name) or name in PARAMETERS)]
    errors += [unknown_field(name, (*FIELD_NAMES, *PARAMETERS), "parameter") for name in unknown[:50]]
    try:
        criteria = LetterCriteria.parse({name: values for name, values in lists.items() if filter_named(name)})
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
    """Raise ``CriteriaInvalid`` for any query parameter."""
    if query:
        _invalid([field_error(name, "unknown parameter") for name in list(query)[:50]], CriteriaInvalid)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchListRequest:
    """A page of batches, or of letters of a batch."""

    stages: tuple[str, ...] = ()
    outcome: str | None = None
    limit: int
    cursor: str | None = None


def batches_request(query: QueryDict) -> BatchListRequest:
    """The page of batches in a query string; raises ``CriteriaInvalid`` with every problem."""
    return _batch_list(query, ("stage", "limit", "cursor"), default=20, most=MAX_BATCHES)


def items_request(query: QueryDict) -> BatchListRequest:
    """The page of a batch's letters in a query string; raises ``CriteriaInvalid`` with every problem."""
    return _batch_list(query, ("outcome", "limit", "cursor"), default=100, most=MAX_ITEMS)


def _batch_list(query: QueryDict, known: Sequence[str], *, default: int, most: int) -> BatchListRequest:
    found: dict[str, Any] = {"limit": default}
    errors: list[FieldError] = []
    for name, values in list(query.lists())[:50]:
        try:
            if name not in known:
                raise ValueError("unknown parameter; known are " + ", ".join(known))
            if name == "stage":
                found["stages"] = tuple(map(one_of(STAGES), values))
                continue
            read = {"limit": digits(1, most), "outcome": one_of(OUTCOME_FILTERS), "cursor": check_cursor}[name]
            found[name] = read(single(values))
        except ValueError as error:
            errors.append(field_error(name, str(error)))
    if errors:
        _invalid(errors, CriteriaInvalid)
    return BatchListRequest(**found)


def items_export_request(query: QueryDict, forms: Sequence[str]) -> tuple[str, str | None]:
    """Form and outcome of an export of a batch; raises ``CriteriaInvalid`` with every problem."""
    found: dict[str, str] = {}
    errors: list[FieldError] = []
    allowed = {"format": forms, "outcome": tuple(OUTCOME_FILTERS)}
    for name, values in list(query.lists())[:50]:
        try:
            if name not in allowed:
                raise ValueError("unknown parameter; known are " + ", ".join(allowed))
            found[name] = one_of(allowed[name])(single(values))
        except ValueError as error:
            errors.append(field_error(name, str(error)))
    if errors:
        _invalid(errors, CriteriaInvalid)
    return found.get("format", "jsonl"), found.get("outcome")


def batch_id_for(key: str | None, actor: str) -> str | None:
    """The id of the batch that ``actor`` starts with this idempotency key; None without a key.

    Raises ``RequestInvalid``.
    """
    if key is None:
        return None
    if not _KEY.match(key):
        _invalid([field_error("Idempotency-Key", "must be 1 to 128 printable ASCII characters")], RequestInvalid)
    return "b-" + hashlib.sha256(f"{actor}\n{key}".encode()).hexdigest()[:32]


def _given_twice(node: Node, path: str) -> Iterator[str]:
    """Names that occur more than once in an object of a body, except inside a payload."""
    if not isinstance(node, Object):
        return
    for name, times in Counter(name for name, _ in node.pairs).items():
        if times > 1:
            yield f"{path}{name}"
    for name, inner in node.pairs:
        if name != "payload":
            yield from _given_twice(inner, f"{path}{name}.")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _invalid(errors: list[FieldError], kind: type[CriteriaInvalid] | type[RequestInvalid]) -> NoReturn:
    raise kind(summary(errors), errors=errors)
