"""Parse the body of a batch: each message on its own, so that a bad one does not affect the others."""

from __future__ import annotations

from messages_app.domain.errors import MessageInvalid, MessagesError
from messages_app.domain.parsing import (
    Envelope,
    Fault,
    expect_end,
    invalid,
    scan_envelope,
    scan_value,
    skip_space,
    worst_first,
)
from messages_app.rest.contract import MAX_BATCH

#: Start and end of an item's text, and its message or its error.
Item = tuple[int, int, Envelope | MessagesError]


def scan_batch(text: str) -> list[Item]:
    """The items of ``{"messages": [...]}``. Raises for invalid JSON and for faults of the batch as a whole."""
    at = skip_space(text, 0)
    if text[at : at + 1] != "{":
        _, end, _ = scan_value(text, at)
        expect_end(text, end)
        raise MessageInvalid([Fault("invalid_message", "", 'The body must be an object: {"messages": [...]}.')])
    items: list[Item] | None = None
    faults: list[Fault] = []
    at = skip_space(text, at + 1)
    while text[at : at + 1] != "}":
        if text[at : at + 1] != '"':
            raise invalid(text, at, "expected a field name in double quotes")
        name, at, _ = scan_value(text, at)
        at = skip_space(text, at)
        if text[at : at + 1] != ":":
            raise invalid(text, at, "expected ':'")
        at = skip_space(text, at + 1)
        if name == "messages" and items is None and text[at : at + 1] == "[":
            items, at = _scan_items(text, at)
        else:
            _, at, _ = scan_value(text, at)
            if name != "messages":
                faults.append(Fault("unknown_field", name, "is not a field of a batch; allowed field: messages"))
            elif items is not None:
                faults.append(Fault("duplicate_field", name, "is given more than once"))
            else:
                faults.append(Fault("invalid_message", name, "must be a list of messages"))
        at = skip_space(text, at)
        if text[at : at + 1] == ",":
            at = skip_space(text, at + 1)
            if text[at : at + 1] == "}":
                raise invalid(text, at, "expected a field name in double quotes")
        elif text[at : at + 1] != "}":
            raise invalid(text, at, "expected ',' or '}'")
    expect_end(text, at + 1)
    if items is None and not faults:
        faults.append(Fault("invalid_message", "messages", f"is required: 1 to {MAX_BATCH} messages"))
    elif items is not None and not items:
        faults.append(Fault("invalid_message", "messages", f"must hold 1 to {MAX_BATCH} messages"))
    if faults or items is None:
        raise MessageInvalid(worst_first(faults))
    return items


def _scan_items(text: str, at: int) -> tuple[list[Item], int]:
    items: list[Item] = []
    at = skip_space(text, at + 1)
    if text[at : at + 1] == "]":
        return items, at + 1
    while True:
        if len(items) == MAX_BATCH:
            message = f"must hold 1 to {MAX_BATCH} messages; split the batch"
            raise MessageInvalid([Fault("invalid_message", "messages", message)])
        found: Envelope | MessagesError
        if text[at : at + 1] == "{":
            found = scan_envelope(text, at)
            end = found.end
        else:
            _, end, _ = scan_value(text, at)
            found = MessageInvalid([Fault("invalid_message", "", "must be a JSON object")])
        items.append((at, end, found))
        at = skip_space(text, end)
        if text[at : at + 1] == "]":
            return items, at + 1
        if text[at : at + 1] != ",":
            raise invalid(text, at, "expected ',' or ']'")
        at = skip_space(text, at + 1)
