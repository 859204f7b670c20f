"""RQ's own worker, which forks a process per message, stoppable while Redis is unavailable."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from redis import ConnectionError, RedisError, TimeoutError
from rq.exceptions import StopRequested
from rq.worker import Worker

from messages_app import conf
from messages_app.store.connection import SOCKET_TIMEOUT_S, with_timeouts
from messages_app.store.lane_workers import MarkedWorker
from processes import hard_exit
from processes.watchdog import guard

log = logging.getLogger(__name__)

#: Seconds that one command waits for a wake-up.
DEQUEUE_S = 2
_PAUSE_S = 1.0


def _for_the_pages(method: Any) -> Callable[..., None]:
    """Ignore Redis errors of a method that only updates RQ's pages. RQ would end the worker."""

    @wraps(method)
    def update(self: Worker, *args: Any, **kwargs: Any) -> None:
        try:
            method(self, *args, **kwargs)
        except RedisError as error:
            log.debug("others_not_told", extra={"why": f"{type(error).__name__}: {error}"})

    return update


class ForkingWorker(MarkedWorker):
    """RQ's worker with timeouts of seconds. RQ itself waits more than 400 s for an answer of Redis."""

    heartbeat = _for_the_pages(Worker.heartbeat)
    maintain_heartbeats = _for_the_pages(Worker.maintain_heartbeats)
    run_maintenance_tasks = _for_the_pages(Worker.run_maintenance_tasks)
    set_state = _for_the_pages(Worker.set_state)
    set_shutdown_requested_date = _for_the_pages(Worker.set_shutdown_requested_date)

    @property
    def dequeue_timeout(self) -> int:
        return DEQUEUE_S

    def _set_connection(self, connection: Any) -> Any:
        return with_timeouts(connection, DEQUEUE_S + SOCKET_TIMEOUT_S)

    def register_birth(self) -> None:
        try:
            super().register_birth()  # type: ignore[no-untyped-call]
        except TimeoutError as error:
            raise ConnectionError(str(error)) from error  # django-rq's command ends with one line on this one only

    def check_for_suspension(self, burst: bool) -> None:
        while not self._stop_requested:
            try:
                super().check_for_suspension(burst)
            except RedisError as error:
                log.warning("worker_waits", extra={"worker": self.name, "why": f"{type(error).__name__}: {error}"})
                time.sleep(_PAUSE_S)
            else:
                return

    def main_work_horse(self, job: Any, queue: Any) -> None:
        """Run the job under a watchdog. RQ waits an hour for an unresponsive process."""
        guard("rqworker_job", conf.watchdog_timeout_s())
        super().main_work_horse(job, queue)

    def perform_job(self, job: Any, queue: Any, execution: Any) -> bool:
        try:
            return bool(super().perform_job(job, queue, execution))
        finally:
            hard_exit.prepare()  # RQ ends the process without Python's exit handlers

    def teardown(self) -> None:
        try:
            super().teardown()  # type: ignore[no-untyped-call]
        except (RedisError, StopRequested) as error:
            # The registration expires. StopRequested: a signal arrived meanwhile.
            log.info("rq_not_told", extra={"worker": self.name, "why": f"{type(error).__name__}: {error}"})
