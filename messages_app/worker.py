"""The message worker: RQ's worker by name, birth and heartbeat, with threads and batches instead of a fork per job."""

from __future__ import annotations

import logging
import signal
import threading
import time
from _thread import start_new_thread
from types import FrameType
from typing import Any

from rq.defaults import DEFAULT_LOGGING_DATE_FORMAT, DEFAULT_LOGGING_FORMAT
from rq.serializers import JSONSerializer
from rq.suspension import is_suspended
from rq.worker import DequeueStrategy, WorkerStatus

from breaker_app.conf import announce_again
from breaker_app.primary import demotions
from messages_app import conf
from messages_app.attempt import process_state
from messages_app.jobs import WakeUpJob
from messages_app.store.connection import with_timeouts
from messages_app.store.lane_workers import MarkedWorker
from messages_app.store.ledger import ledger
from messages_app.store.queues import queues
from messages_app.work.engine import Engine
from messages_app.work.protection import announce_breakers
from messages_app.work.upkeep import Upkeep
from processes.essential import Essential
from processes.names import process_name

log = logging.getLogger(__name__)

ROLE = "worker"
#: RQ's pages show the process as gone so long (plus a minute) after its last heartbeat.
WORKER_TTL_S = 60
HEARTBEAT_EVERY_S = 10.0
_TICK_S = 0.25
#: RQ's rqsuspend is looked for so often.
_LOOK_EVERY_S = 1.0
#: A stopping process waits so long to be taken off RQ's list. Otherwise it expires there by itself.
_UNREGISTER_TIMEOUT_S = 1.5
#: A second signal within this time is the same wish again (a terminal and a supervisor both pass Ctrl-C on).
_ECHO_S = 1.0


class ThreadedWorker(MarkedWorker):
    """Runs messages on threads of one process. ``work`` returns when it was told to stop and has put everything away.

    To RQ it is a worker like any other: listed, with heartbeats and counts, stopped by its commands and suspended by
    ``rqsuspend``. It takes no job from RQ: wake-ups are claimed in the ledger, many at a time.
    """

    job_class = WakeUpJob

    def __init__(
        self,
        queues: Any,
        name: str | None = None,
        *,
        concurrency: int | None = None,
        serializer: Any = None,
        job_class: Any = None,
        **kwargs: Any,
    ) -> None:
        """``serializer`` and ``job_class`` are passed by RQ's tools and not followed: wake-ups are JSON, and ours."""
        super().__init__(queues, name or process_name(), serializer=JSONSerializer, job_class=WakeUpJob, **kwargs)
        self.worker_ttl = WORKER_TTL_S
        self.concurrency = concurrency or conf.concurrency()
        #: 0 after a stop that was asked for; 1 when the process should be replaced.
        self.exit_code = 0
        self._stop = threading.Event()
        self._hurry = threading.Event()
        #: Set when the engine has stopped.
        self._over = threading.Event()
        self._stop_asked_at = 0.0
        self._reported = (0, 0)

    def work(
        self,
        burst: bool = False,
        logging_level: str | None = None,
        date_format: str = DEFAULT_LOGGING_DATE_FORMAT,
        log_format: str = DEFAULT_LOGGING_FORMAT,
        max_jobs: int | None = None,
        max_idle_time: int | None = None,
        with_scheduler: bool = False,
        dequeue_strategy: DequeueStrategy = DequeueStrategy.DEFAULT,
    ) -> bool:
        """Run messages until told to stop; with ``burst`` until nothing waits. True when any message ended here.

        The other arguments are RQ's: retries are moved by every worker, lanes have their own order, and the process
        lives until it is told otherwise.
        """
        if max_jobs is not None or max_idle_time is not None:
            raise ValueError("a threaded worker does not count jobs and knows no idle time: stop it by a signal")
        book = ledger()
        upkeep = Upkeep(book, name=self.name, role=ROLE, details=self._details)
        engine = self._engine = Engine(
            book, name=self.name, concurrency=self.concurrency, outbox_filled=upkeep.outbox_filled
        )
        self._catch_signals()
        if not self._be_born():
            return False
        announce_breakers()
        upkeep.start()
        engine.start()
        listing = Essential(self._stay_listed, "listing", (engine,), may_end=self._over.is_set)
        listing.start()
        log.info("worker_started", extra={"worker": self.name, "concurrency": self.concurrency})
        try:
            self._stand_by(engine, burst=burst)
        finally:
            engine.stop(conf.shutdown_grace_s(), hurry=self._hurry.is_set)
            self._over.set()
            upkeep.stop()
            listing.join(_UNREGISTER_TIMEOUT_S)
        log.info("worker_stopped", extra={"worker": self.name, "exit_code": self.exit_code})
        return bool(engine.flusher.flushed)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """The first signal ends the work in peace, the next one hands back at once what still runs.

        A signal may come while the main thread holds the very lock inside an event that ``set`` needs: so another
        thread sets it.
        """
        now = time.monotonic()
        if not self._stop_asked_at:
            self._stop_asked_at = now
            start_new_thread(self._stop.set, ())
        elif now - self._stop_asked_at > _ECHO_S:
            start_new_thread(self._hurry.set, ())

    def stop(self) -> None:
        """What a signal does, for whoever runs the worker on a thread."""
        self._stop.set()

    def _catch_signals(self) -> None:
        # Signals belong to the main thread; on any other, ``stop`` is the way.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self.request_stop)
            signal.signal(signal.SIGTERM, self.request_stop)

    def _stand_by(self, engine: Engine, *, burst: bool) -> None:
        """Look whether to stop, while the engine's threads work. Asks no store anything: a signal is heard at once."""
        while not self._stop.wait(_TICK_S):
            if engine.is_worn_out():
                log.error("worker_worn_out", extra={"worker": self.name, "abandoned": engine.pool.abandoned()})
                self.exit_code = 1
                return
            if burst and engine.is_drained():
                return

    def _stay_listed(self, engine: Engine) -> None:
        """Beat for RQ's pages and follow RQ's suspension; at the end, leave RQ's list.

        On a thread of its own: while Redis is silent each of these takes seconds.
        """
        beaten_at = 0.0
        met = demotions()
        while True:
            self._quietly(self._follow_suspension, engine)
            now = time.monotonic()
            if now - beaten_at >= HEARTBEAT_EVERY_S:
                beaten_at = now
                self._quietly(self._beat, engine)
                self._quietly(announce_again)
            if met != demotions():
                met = demotions()
                self._quietly(self._subscribe_again)
            if self._over.wait(_LOOK_EVERY_S):
                break
        self._quietly(self._count, engine)
        self._quietly(self.teardown)

    def _subscribe_again(self) -> None:
        """Hear RQ's commands from the new primary: a subscription to the old one stays open and may go quiet."""
        self.unsubscribe()
        self.subscribe()

    def _set_connection(self, connection: Any) -> Any:
        """RQ lets each answer take more than 400 s, for a worker that waits for jobs by it. This one does not."""
        return with_timeouts(connection)

    def _set_ip_address(self, connection: Any) -> None:
        """RQ asks Redis for it when the object is made; here that waits until Redis is there."""
        self.ip_address = "unknown"

    def _be_born(self) -> bool:
        """Register with RQ, waiting for Redis if need be. False when told to stop meanwhile."""
        pause = 0.5
        while True:
            try:
                super()._set_ip_address(self.connection)
                # A birth whose answer was lost is on the list already, and RQ would take it for another worker's.
                self.connection.delete(self.key)
                self.register_birth()
                self.subscribe()
                self.set_state(WorkerStatus.STARTED)
            except Exception as error:
                # RQ lets the driver's errors through; whatever it is, the supervisor's restart would meet it again.
                log.warning("worker_waits", extra={"worker": self.name, "why": f"{type(error).__name__}: {error}"})
                if self._stop.wait(pause):
                    return False
                pause = min(2 * pause, 5.0)
            else:
                return True

    def _beat(self, engine: Engine) -> None:
        self.heartbeat()
        self.set_state(WorkerStatus.BUSY if engine.pool.held() else WorkerStatus.IDLE)
        self._count(engine)

    def _count(self, engine: Engine) -> None:
        """Tell RQ's pages how many messages ended since the last time."""
        completed, failed = engine.flusher.completed, engine.flusher.failed
        before = self._reported
        with self.connection.pipeline() as pipeline:
            pipeline.hincrby(self.key, "successful_job_count", completed - before[0])
            pipeline.hincrby(self.key, "failed_job_count", failed - before[1])
            pipeline.execute()
        self._reported = (completed, failed)

    def _follow_suspension(self, engine: Engine) -> None:
        if is_suspended(self.connection, self):
            engine.claimer.pause()
        else:
            engine.claimer.resume()

    def _quietly(self, act: Any, *args: Any) -> None:
        try:
            act(*args)
        except Exception as error:
            # Being listed, as a worker of RQ or as a user of breakers, is worth nothing against the messages that this
            # process runs.
            log.debug("others_not_told", extra={"why": f"{type(error).__name__}: {error}"})

    def _details(self) -> dict[str, object]:
        """Figures for the console."""
        pool, flusher = self._engine.pool, self._engine.flusher
        return {
            "threads": pool.size,
            "busy": pool.busy(),
            "abandoned": pool.abandoned(),
            "completed": flusher.completed,
            "failed": flusher.failed,
            "stale": flusher.stale,
            "memory": process_state.resident_bytes(),
            "version": conf.code_version(),
        }


def make_worker(concurrency: int | None = None) -> ThreadedWorker:
    """A worker for all lanes, as settings describe it."""
    lanes = queues()
    return ThreadedWorker(lanes, connection=lanes[0].connection, queue_class=type(lanes[0]), concurrency=concurrency)
