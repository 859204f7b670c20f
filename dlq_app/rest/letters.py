"""Dead letters over REST. Services decide, ``wire.py`` writes; a view carries."""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import ceil
from typing import ClassVar

from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from dlq_app import conf
from dlq_app.domain.errors import LetterNotFound
from dlq_app.domain.letter import DeadLetter
from dlq_app.rest import audit, contract, openapi, requests
from dlq_app.rest.audit import actor
from dlq_app.services import dead_letters
from dlq_app.services.replaying import Replayed, refusal
from dlq_app.store import repository
from wire.contract import problems

log = logging.getLogger(__name__)


class LettersView(APIView):
    """The list of dead letters."""

    required_scopes: ClassVar = {"GET": "read"}

    @extend_schema(
        operation_id="listDeadLetters",
        tags=["Dead letters"],
        summary="List dead letters",
        parameters=[*openapi.FILTERS, *openapi.PAGES],
        responses={
            200: contract.LETTER_LIST,
            **problems(s400="`invalid_filter` names each problem.", s503=openapi.AWAY),
        },
    )
    def get(self, request: Request) -> Response:
        which, page = requests.list_request(request.query_params)
        letters = repository.letters()
        found, total = letters.page(which, page), letters.count(which)
        answer = {
            "data": found.letters,
            "pagination": {
                "page": None if page.cursor else page.page,
                "limit": page.limit,
                "total": total.count,
                "totalIsCapped": total.is_capped,
                "pages": ceil(total.count / page.limit),
                "nextCursor": found.next_cursor.encode() if found.next_cursor else None,
            },
            "unreadable": [{"_id": one.id, "why": str(one)} for one in letters.unreadable(repository.MAX_NAMED)],
        }
        return Response(contract.LETTER_LIST.write(answer, conf.masking_policy()))


class StatsView(APIView):
    """Figures about all dead letters."""

    required_scopes: ClassVar = {"GET": "read"}

    @extend_schema(
        operation_id="getDeadLetterStats",
        tags=["Dead letters"],
        summary="Figures about dead letters",
        responses={200: contract.STATS_OUT, **problems(s503=openapi.AWAY)},
    )
    def get(self, request: Request) -> Response:
        requests.refuse_parameters(request.query_params)
        return Response({"data": dead_letters.stats()})


class LetterView(APIView):
    """One dead letter, whole."""

    required_scopes: ClassVar = {"GET": "read"}

    @extend_schema(
        operation_id="getDeadLetter",
        tags=["Dead letters"],
        summary="Look at a dead letter",
        description="By `_id` or message id. What looks like a secret is hidden.",
        responses={200: contract.LETTER_OUT, **problems(s404="`dead_letter_not_found`", s503=openapi.AWAY)},
    )
    def get(self, request: Request, ref: str) -> Response:
        requests.refuse_parameters(request.query_params)
        letter = repository.letters().find(ref)
        if letter is None:
            raise LetterNotFound(f"There is no dead letter {ref}.")
        return _whole(letter)


class LetterByMessageView(APIView):
    """The same, by message id and nothing else: for ids that are words of this API, or look like an ``_id``."""

    required_scopes: ClassVar = {"GET": "read"}

    @extend_schema(
        operation_id="getDeadLetterByMessage",
        tags=["Dead letters"],
        summary="Look at a message's dead letter",
        description=(
            "By message id only: also for a message id such as `stats` or `export`, which names another address below "
            "`/api/dlq`, and for one that is some letter's `_id`. Act on such a letter by its `_id`."
        ),
        responses={200: contract.LETTER_OUT, **problems(s404="`dead_letter_not_found`", s503=openapi.AWAY)},
    )
    def get(self, request: Request, message_id: str) -> Response:
        requests.refuse_parameters(request.query_params)
        letter = repository.letters().find_by_message(message_id)
        if letter is None:
            raise LetterNotFound(f"Message {message_id} has no dead letter.")
        return _whole(letter)


class ReplayView(APIView):
    """Replays of one letter."""

    required_scopes: ClassVar = {"POST": "replay"}

    @extend_schema(
        operation_id="replayDeadLetter",
        tags=["Dead letters"],
        summary="Replay a dead letter",
        description=(
            "One attempt through intake and its circuit breaker; the outcome comes to the letter. With `payload` the "
            "edited version runs and is kept; the original stays as it is."
        ),
        request=contract.REPLAY_IN,
        responses={
            202: contract.REPLAY_STARTED_OUT,
            **problems(
                s400="`invalid_request`, `invalid_payload`",
                s404="`dead_letter_not_found`",
                s413="`payload_too_large`: as at intake.",
                s409="`replay_in_flight`, `illegal_state` (resolved, without `force`), `already_done`, "
                "`not_replayable`",
                s503="`circuit_open`, `store_unavailable`: nothing was started. `replay_unknown`: see the letter.",
            ),
        },
    )
    def post(self, request: Request, ref: str) -> Response:
        requests.refuse_parameters(request.query_params)
        fields = contract.REPLAY_IN.read(request.data)
        answer = dead_letters.replay(ref, actor=actor(request), **fields)
        problem = refusal(answer)
        if problem:
            raise problem
        assert isinstance(answer, Replayed)  # noqa: S101  every other answer is a problem
        audit.log(request, answer.letter_id, answer.message_id, f"replay {answer.replay_id}", fields.get("reason", ""))
        return Response(contract.REPLAY_STARTED_OUT.write({"data": answer}), status=202)


class MoveView(APIView):
    """An operator's move; which one, its URL says."""

    required_scopes: ClassVar = {"POST": "replay"}
    verb: ClassVar[str]
    move: ClassVar[Callable[..., DeadLetter]]

    def post(self, request: Request, ref: str) -> Response:
        requests.refuse_parameters(request.query_params)
        fields = contract.REASON_IN.read(request.data)
        letter = type(self).move(ref, actor=actor(request), **fields)
        audit.log(request, letter.id, letter.message_id, self.verb, fields.get("reason", ""))
        return _whole(letter)


def _described(operation: str, summary: str, description: str) -> Callable[[type[MoveView]], type[MoveView]]:
    schema = extend_schema(
        operation_id=operation,
        tags=["Dead letters"],
        summary=summary,
        description=description,
        request=contract.REASON_IN,
        responses={
            200: contract.LETTER_OUT,
            **problems(s404="`dead_letter_not_found`", s409="`illegal_state` names the status.", s503=openapi.AWAY),
        },
    )
    return extend_schema_view(post=schema)


@_described("resolveDeadLetter", "Resolve a dead letter by hand", "It is done: from any status that waits.")
class ResolveView(MoveView):
    verb = "resolve"
    move = staticmethod(dead_letters.resolve_by_hand)


@_described("discardDeadLetter", "Discard a dead letter", "It does not matter: from any status that waits.")
class DiscardView(MoveView):
    verb = "discard"
    move = staticmethod(dead_letters.discard)


@_described("setAsideDeadLetter", "Set a dead letter aside", "No automatic replays until a person decides.")
class SetAsideView(MoveView):
    verb = "set aside"
    move = staticmethod(dead_letters.set_aside)


class NotesView(APIView):
    """Notes on a letter."""

    required_scopes: ClassVar = {"POST": "replay"}

    @extend_schema(
        operation_id="noteDeadLetter",
        tags=["Dead letters"],
        summary="Add a note to a dead letter",
        request=contract.NOTE_IN,
        responses={201: contract.LETTER_OUT, **problems(s404="`dead_letter_not_found`", s503=openapi.AWAY)},
    )
    def post(self, request: Request, ref: str) -> Response:
        requests.refuse_parameters(request.query_params)
        fields = contract.NOTE_IN.read(request.data)
        letter = dead_letters.add_note(ref, actor=actor(request), **fields)
        audit.log(request, letter.id, letter.message_id, "note", fields["text"])
        return _whole(letter, status=201)


class RevealView(APIView):
    """A letter with its secrets; that somebody looked is written down."""

    required_scopes: ClassVar = {"POST": "admin"}

    @extend_schema(
        operation_id="revealDeadLetter",
        tags=["Dead letters"],
        summary="See the secrets of a dead letter",
        description="The letter with nothing hidden. Who looked, and why, is kept in its history and in the audit log.",
        request=contract.REVEAL_IN,
        responses={
            200: contract.LETTER_OUT,
            **problems(
                s400="`invalid_request`: `reason` is missing or empty.",
                s404="`dead_letter_not_found`",
                s503=openapi.AWAY,
            ),
        },
    )
    def post(self, request: Request, ref: str) -> Response:
        requests.refuse_parameters(request.query_params)
        reason = contract.REVEAL_IN.read(request.data)["reason"]
        letter = dead_letters.reveal(ref, actor=actor(request), reason=reason)
        log.warning("secrets_revealed", extra={"by": actor(request), "letter_id": letter.id, "why": reason})
        audit.log(request, letter.id, letter.message_id, "reveal", reason, must=True)
        return _whole(letter, masked=False)


def _whole(letter: DeadLetter, *, status: int = 200, masked: bool = True) -> Response:
    masking = conf.masking_policy() if masked else None
    return Response(contract.LETTER_OUT.write({"data": letter}, masking), status=status)
