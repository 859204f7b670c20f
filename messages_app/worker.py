"""The message worker: a worker of RQ that runs messages on threads, in batches, instead of forking for each job."""

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
from messages_app.work.letter_writer import LetterWriter
from messages_app.work.protection import announce_breakers
from messages_app.work.upkeep import LEAVE_MS, Upkeep
from processes import tracing
from processes.essential import Essential
from processes.names import process_name

log = logging.getLogger(__name__)

ROLE = "worker"
#: RQ's pages show the process as gone this long (plus a minute) after its last heartbeat.
WORKER_TTL_S = 60
HEARTBEAT_EVERY_S = 10.0
_TICK_S = 0.25
#: Interval between checks for RQ's ``rqsuspend``.
_CHECK_EVERY_S = 1.0
#: Maximum wait of a stopping process to be removed from RQ's list, where it would expire otherwise.
_UNREGISTER_TIMEOUT_S = 1.5
#: Maximum wait of a stopping process for its last letters; drainers write the others.
_LAST_LETTERS_S = 1.0
#: A second signal within this time is a repetition: a terminal and a supervisor both pass on Ctrl-C.
_REPEATED_SIGNAL_S = 1.0


class ThreadedWorker(MarkedWorker):
    """Runs messages on threads of one process. ``work`` returns after a stop, when all outcomes are recorded.

    RQ treats it like any other worker: it is listed with heartbeats and counts, stopped by RQ's commands and suspended
    by ``rqsuspend``. It takes no jobs from RQ: it claims messages in the ledger, many at a time.
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
        """``serializer`` and ``job_class``, which RQ's tools pass, are ignored: wake-ups are our own JSON."""
        super().__init__(queues, name or process_name(), serializer=JSONSerializer, job_class=WakeUpJob, **kwargs)
        self.worker_ttl = WORKER_TTL_S
        self.concurrency = concurrency or conf.concurrency()
        #: 0 after a requested stop; 1 when the process should be replaced.
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
        """Run messages until a stop, or with ``burst`` until none waits. Returns whether any message ended here.

        The other arguments are RQ's and ignored: every worker moves retries, lanes have a fixed order, and the process
        runs until it is stopped.
        """
        if max_jobs is not None or max_idle_time is not None:
            raise ValueError("max_jobs and max_idle_time are not supported; stop the worker with a signal")
        book = ledger()
        upkeep = Upkeep(book, name=self.name, role=ROLE, details=self._details, leave_ms=LEAVE_MS)
        letters = LetterWriter(book)
        engine = self._engine = Engine(book, name=self.name, concurrency=self.concurrency, letters=letters)
        self._catch_signals()
        if not self._register():
            return False
        announce_breakers()
        tracing.begin()
        upkeep.start()
        letters.start()
        engine.start()
        listing = Essential(self._stay_listed, "listing", (engine,), may_end=self._over.is_set)
        listing.start()
        log.info("worker_started", extra={"worker": self.name, "concurrency": self.concurrency})
        try:
            self._wait_for_stop(engine, burst=burst)
        finally:
            engine.stop(conf.shutdown_grace_s(), hurry=self._hurry.is_set)
            self._over.set()
            letters.finish(_LAST_LETTERS_S)
            upkeep.stop()
            listing.join(_UNREGISTER_TIMEOUT_S)
        log.info("worker_stopped", extra={"worker": self.name, "exit_code": self.exit_code})
        return bool(engine.flusher.flushed)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Stop after the first signal; requeue running messages at once after the next one.

        A signal may arrive while the main thread holds the lock inside the event that ``set`` needs. So another thread
        sets it.
        """
        now = time.monotonic()
        if not self._stop_asked_at:
            self._stop_asked_at = now
            start_new_thread(self._stop.set, ())
        elif now - self._stop_asked_at > _REPEATED_SIGNAL_S:
            start_new_thread(self._hurry.set, ())

    def stop(self) -> None:
        """Stop the worker, as a signal does."""
        self._stop.set()

    def _catch_signals(self) -> None:
        # Only the main thread can handle signals; elsewhere use ``stop``.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self.request_stop)
            signal.signal(signal.SIGTERM, self.request_stop)

    def _wait_for_stop(self, engine: Engine, *, burst: bool) -> None:
        """Wait until the worker should stop. Uses no store, so that a signal takes effect at once."""
        while not self._stop.wait(_TICK_S):
            if engine.is_worn_out():
                log.error("worker_worn_out", extra={"worker": self.name, "abandoned": engine.pool.abandoned()})
                self.exit_code = 1
                return
            if burst and engine.is_drained():
                return

    def _stay_listed(self, engine: Engine) -> None:
        """Send heartbeats for RQ's pages and follow RQ's suspension; at the end, leave RQ's list.

        On a separate thread: while Redis is unavailable each step takes seconds.
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
            if self._over.wait(_CHECK_EVERY_S):
                break
        self._quietly(self._count, engine)
        self._quietly(self.teardown)

    def _subscribe_again(self) -> None:
        """Subscribe to RQ's commands on the new primary: the old subscription stays open without receiving any."""
        self.unsubscribe()
        self.subscribe()

    def _set_connection(self, connection: Any) -> Any:
        """Use short timeouts. RQ waits more than 400 s for an answer, because its workers wait for jobs on it."""
        return with_timeouts(connection)

    def _set_ip_address(self, connection: Any) -> None:
        """RQ asks Redis for the address in the constructor; ``_register`` does it once Redis is available."""
        self.ip_address = "unknown"

    def _register(self) -> bool:
        """Register with RQ, waiting for Redis if necessary. Returns False when stopped meanwhile."""
        pause = 0.5
        while True:
            try:
                super()._set_ip_address(self.connection)
                # After a lost answer the name is registered already, and RQ would treat it as another worker's.
                self.connection.delete(self.key)
                self.register_birth()
                self.subscribe()
                self.set_state(WorkerStatus.STARTED)
            except Exception as error:
                # RQ raises the driver's errors. A restart by the supervisor would meet any error again.
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
        """Add the messages that ended since the last time to the counts on RQ's pages."""
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
            # Errors of the listing, in RQ or for breakers, must not affect the messages that this process runs.
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
    """A worker for all lanes, configured by the settings."""
    lanes = queues()
    return ThreadedWorker(lanes, connection=lanes[0].connection, queue_class=type(lanes[0]), concurrency=concurrency)
