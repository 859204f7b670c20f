"""REST views of dead letters."""

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
from dlq_app.services import dead_letters, facets
from dlq_app.services.replaying import Replayed, refusal
from dlq_app.store import repository
from wire.contract import Shape, problems

log = logging.getLogger(__name__)


class LettersView(APIView):
    required_scopes: ClassVar = {"GET": "read"}

    @extend_schema(
        operation_id="listDeadLetters",
        tags=["Dead letters"],
        summary="List dead letters",
        parameters=[*openapi.FILTERS, *openapi.PAGES],
        responses={
            200: contract.LETTER_LIST,
            **problems(s400="`invalid_filter`: `errors` lists each problem.", s503=openapi.AWAY),
        },
    )
    def get(self, request: Request) -> Response:
        which, page = requests.list_request(request.query_params)
        letters = repository.letters()
        found, total = letters.listed(which, page)
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
            "facetsComplete": facets.is_filled(),
            "unreadable": [{"_id": one.id, "why": str(one)} for one in letters.unreadable(repository.MAX_NAMED)],
        }
        return Response(contract.LETTER_LIST.write(answer, conf.masking_policy()))


class StatsView(APIView):
    required_scopes: ClassVar = {"GET": "read"}

    @extend_schema(
        operation_id="getDeadLetterStats",
        tags=["Dead letters"],
        summary="Show statistics of dead letters",
        responses={200: contract.STATS_OUT, **problems(s503=openapi.AWAY)},
    )
    def get(self, request: Request) -> Response:
        requests.refuse_parameters(request.query_params)
        return Response({"data": dead_letters.stats()})


class LetterView(APIView):
    required_scopes: ClassVar = {"GET": "read"}

    @extend_schema(
        operation_id="getDeadLetter",
        tags=["Dead letters"],
        summary="Show a dead letter",
        description="By `_id` or message id. Values that look like secrets are hidden.",
        responses={200: contract.LETTER_OUT, **problems(s404="`dead_letter_not_found`", s503=openapi.AWAY)},
    )
    def get(self, request: Request, ref: str) -> Response:
        requests.refuse_parameters(request.query_params)
        letter = repository.letters().find(ref)
        if letter is None:
            raise LetterNotFound(f"There is no dead letter {ref}.")
        return _whole(letter)


class LetterByMessageView(APIView):
    """A letter by message id only, for ids that are also parts of URLs, or look like an ``_id``."""

    required_scopes: ClassVar = {"GET": "read"}

    @extend_schema(
        operation_id="getDeadLetterByMessage",
        tags=["Dead letters"],
        summary="Show the dead letter of a message",
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
    required_scopes: ClassVar = {"POST": "replay"}

    @extend_schema(
        operation_id="replayDeadLetter",
        tags=["Dead letters"],
        summary="Replay a dead letter",
        description=(
            "Makes one attempt through intake and its circuit breaker; the letter gets the outcome. With `payload`, "
            "the edited version runs and is kept; the original does not change."
        ),
        request=contract.REPLAY_IN,
        responses={
            202: contract.REPLAY_STARTED_OUT,
            **problems(
                s400="`invalid_request`, `invalid_payload`",
                s404="`dead_letter_not_found`",
                s413="`payload_too_large`: the same limit as at intake.",
                s409="`replay_in_flight`, `illegal_state` (resolved, without `force`), `poison_unconfirmed` "
                "(`WORKER_LOST`, without `poison`), `already_done`, `not_replayable`",
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
    """A move by an operator; one subclass for each."""

    required_scopes: ClassVar = {"POST": "replay"}
    verb: ClassVar[str]
    body: ClassVar[Shape] = contract.REASON_IN
    move: ClassVar[Callable[..., DeadLetter]]

    def post(self, request: Request, ref: str) -> Response:
        requests.refuse_parameters(request.query_params)
        fields = self.body.read(request.data)
        letter = type(self).move(ref, actor=actor(request), **fields)
        audit.log(request, letter.id, letter.message_id, self.verb, fields.get("reason", ""))
        return _whole(letter)


def _described(
    operation: str, summary: str, description: str, body: Shape = contract.REASON_IN
) -> Callable[[type[MoveView]], type[MoveView]]:
    schema = extend_schema(
        operation_id=operation,
        tags=["Dead letters"],
        summary=summary,
        description=description,
        request=body,
        responses={
            200: contract.LETTER_OUT,
            **problems(s404="`dead_letter_not_found`", s409="`illegal_state`", s503=openapi.AWAY),
        },
    )
    return extend_schema_view(post=schema)


@_described("resolveDeadLetter", "Resolve a dead letter by hand", "Only for a letter that is waiting.")
class ResolveView(MoveView):
    verb = "resolve"
    move = staticmethod(dead_letters.resolve_by_hand)


@_described("discardDeadLetter", "Discard a dead letter", "Only for a letter that is waiting.")
class DiscardView(MoveView):
    verb = "discard"
    move = staticmethod(dead_letters.discard)


@_described("setAsideDeadLetter", "Set a dead letter aside", "No automatic replays until an operator decides.")
class SetAsideView(MoveView):
    verb = "set aside"
    move = staticmethod(dead_letters.set_aside)


@_described(
    "resumeDeadLetter",
    "Resume the automatic replays of a dead letter",
    "Undoes `set-aside`. Only for a letter that needs a decision and has automatic replays left.",
)
class ResumeView(MoveView):
    verb = "resume"
    move = staticmethod(dead_letters.resume)


@_described(
    "reopenDeadLetter",
    "Reopen a dead letter",
    "Undoes `resolve` and `discard`: the letter needs a decision again, and is kept. A replayed letter cannot be "
    "reopened. `reason` is required.",
    contract.REASON_NEEDED_IN,
)
class ReopenView(MoveView):
    verb = "reopen"
    body = contract.REASON_NEEDED_IN
    move = staticmethod(dead_letters.reopen)


class NotesView(APIView):
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
    """A letter with its secrets; the audit log records the access."""

    required_scopes: ClassVar = {"POST": "admin"}

    @extend_schema(
        operation_id="revealDeadLetter",
        tags=["Dead letters"],
        summary="Show a dead letter with its secrets",
        description="The letter with nothing hidden. Its history and the audit log record the user and the reason.",
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
