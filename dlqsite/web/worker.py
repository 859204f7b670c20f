"""Gunicorn's threaded worker, with slow clients and submissions kept away from its threads.

The stock worker lends a thread to a connection for as long as its client takes to send a request and to read the
answer, so a few slow clients occupy all threads. Here the event loop collects the request and sends what a client does
not read at once, with deadlines and a bound on memory; a thread is busy only while the application works. Two things
still hold a thread on a client: the body of an import and the answer of an export, each only for a client that may,
and for as long as it keeps pace.

Submissions of single messages need no thread at all: ``door.py`` parses them in the event loop, and one thread accepts
all that arrive meanwhile in one step.
"""

from __future__ import annotations

import faulthandler
import ipaddress
import logging
import resource
import selectors
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, Final, cast

from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, ThreadWorker

from dlqsite.web.clients import Connection, Does, InOrder
from dlqsite.web.connection import MIN_MOVED_OF_A_THREAD, Pace

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from dlqsite.web.door import Visit

log = logging.getLogger(__name__)

#: Seconds for the whole head, from its first byte or, on a new connection, from the start.
HEAD_S: Final = 10.0
#: Bytes of requests and answers that one process holds for clients. Beyond it, the client with most of them goes.
MAX_HELD: Final = 64 * 1024 * 1024
#: So little of one client's never counts as too much.
_SMALL = 64 * 1024
#: After the last answer the client gets this long to read it and to close; what it still sends is thrown away.
_LINGER_S = 5.0
_MAX_THROWN_AWAY = 64 * 1024 * 1024
_SWEEP_S = 0.5
#: A connection that waits for its client no longer than this is nobody's fault yet.
_FRESH_S = 1.0
_REPORT_S = 60.0
#: Descriptors for everything that is no client: stores, listener, files.
_OTHER_FILES = 128


class BufferedWorker(ThreadWorker):  # type: ignore[misc]
    """The worker class that ``gunicorn.conf.py`` names."""

    worker_connections: int

    def init_process(self) -> None:
        # Not before the application is loaded.
        from django.conf import settings

        from dlqsite.api.problems import write_problem
        from dlqsite.postgres.line import line

        self._write_problem = write_problem
        # Leaves a thread for a look at health and one for requests that need no database.
        line.at_most = max(1, self.cfg.threads - 2)
        # Who is believed is said once, in TRUSTED_PROXIES. SCRIPT_NAME is gunicorn's to read, the scheme Django's.
        proxies = set(settings.TRUSTED_PROXIES)
        self._trusts_unix = "unix" in proxies
        networks = [str(ipaddress.ip_network(entry, strict=False)) for entry in proxies - {"unix"}]
        self.cfg.set("forwarded_allow_ips", ",".join(networks))
        self.cfg.set("secure_scheme_headers", {})
        self._connections: dict[Connection, None] = {}
        self._held = 0
        self._swept = self._reported = time.monotonic()
        self._let_go: dict[str, int] = {}
        self._scratch = bytearray(256 * 1024)
        self.worker_connections = _enough_files(self.worker_connections)
        self.keepalived_conns = InOrder()
        super().init_process()

    def load_wsgi(self) -> None:
        super().load_wsgi()
        from dlqsite.web.door import Door

        self._door = Door(self.cfg, self.method_queue.defer)
        self._door.committer.start()

    def init_signals(self) -> None:
        super().init_signals()
        # Only the event loop beats, so code that holds the interpreter stops the beats and the arbiter sends SIGABRT,
        # then SIGKILL. Upon the first, this writes the stacks without asking the interpreter.
        faulthandler.enable(sys.__stderr__ or 2, all_threads=True)

    # -- a connection comes, and its request

    def accept(self, listener: socket.socket) -> None:
        try:
            raw, client = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        if self.nr_conns + 1 >= self.worker_connections:
            self._make_room()
        self.nr_conns += 1
        conn = Connection(self.cfg, raw, client, listener.getsockname(), trusted=self._trusts_unix, head_s=HEAD_S)
        self._connections[conn] = None
        self._do(self._receive, conn)  # often the request is there already

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        super().wait_for_and_dispatch_events(timeout)
        self._door.committer.turn()

    def _receive(self, conn: Connection) -> None:
        wire = conn.wire
        if conn.does is Does.WORKING:
            self._unwatch(conn)  # the next request, or the end, while the door works on this one
            return
        if conn.does is Does.IDLE:
            self.keepalived_conns.remove(conn)
            conn.does, conn.since = Does.SENDING, time.monotonic()
            conn.deadline = conn.since + HEAD_S
        had_head = wire.head is not None
        try:
            wire.receive()
        except OSError:
            self._drop(conn)
            return
        self._consider(conn, had_head=had_head)

    def _consider(self, conn: Connection, *, had_head: bool = False) -> None:
        """Give the request to a thread if it is complete."""
        wire = conn.wire
        complete = wire.is_complete()
        if wire.head is not None and wire.head.refused:
            self._refuse(conn, wire.head.refused)
            return
        if complete and (visit := self._door.read(wire, conn.client)) is not None:
            self._submit(conn, visit)
            return
        if complete:
            self._unwatch(conn)
            conn.does, conn.deadline, wire.pace = Does.WORKING, None, Pace(MIN_MOVED_OF_A_THREAD)
            self._hold(conn, wire.received)
            self.enqueue_req(conn)
            return
        if wire.is_at_end:
            self._drop(conn)  # the rest will never come
            return
        if wire.head is not None and not had_head:
            conn.deadline = None  # from here on the pace counts
            try:
                wire.invite()
            except OSError:
                self._drop(conn)
                return
        self._watch(conn, selectors.EVENT_READ, self._receive)
        if wire.received != conn.held:
            self._hold(conn, wire.received)
            self._keep_within_memory()

    def handle_request(self, req: Any, conn: Connection) -> Any:
        if conn.wire.head is not None and conn.wire.head.is_last:
            req.force_close()
        return super().handle_request(req, conn)

    def handle(self, conn: Connection) -> Any:
        """Answer. Runs in a thread, which sends what the client takes at once and leaves the rest to the event loop."""
        stays = super().handle(conn)
        try:
            conn.wire.flush()
        except OSError:
            return False
        return stays

    # -- a submission is answered without a thread

    def _submit(self, conn: Connection, visit: Visit) -> None:
        conn.does, conn.deadline = Does.WORKING, None
        self._hold(conn, conn.wire.received)
        self.nr += 1
        if self.nr >= self.max_requests:
            self.alive = False
        self._door.committer.add(visit.pending, lambda _: self._do(self._reply, conn, visit))

    def _reply(self, conn: Connection, visit: Visit) -> None:
        if visit.pending.reply is None:
            self._door.note(visit, 500)
            self._refuse(conn, 500)
            return
        places = len(self.keepalived_conns) < self.max_keepalived
        conn.stays = self.alive and bool(self.cfg.keepalive) and places and not visit.is_last
        try:
            conn.wire.sendall(self._door.answer(visit, stays=conn.stays))
            conn.wire.flush()
        except OSError:
            self._drop(conn)
            return
        conn.wire.consume(visit.size)
        self._go_on(conn)

    # -- the request is answered

    def finish_request(self, conn: Connection, fs: Future[Any]) -> None:
        self._do(self._finish, conn, fs)

    def _finish(self, conn: Connection, fs: Future[Any]) -> None:
        conn.stays = not fs.cancelled() and fs.exception() is None and bool(fs.result()) and not conn.wire.is_broken
        if conn.stays:
            conn.wire.restart(conn.parser.unreader.take_buffered())
        self._go_on(conn)

    def _go_on(self, conn: Connection) -> None:
        """Wait until the client has read the answer, then for its next request."""
        wire = conn.wire
        self._hold(conn, wire.unsent)
        if not wire.unsent:
            self._answered(conn)
        else:
            conn.does, conn.since, wire.pace = Does.READING, time.monotonic(), Pace()
            self._watch(conn, selectors.EVENT_WRITE, self._send)
            self._keep_within_memory()
        if self.nr_conns >= self.worker_connections:
            self._make_room()  # while threads had all of them there was nobody to let go

    def _send(self, conn: Connection) -> None:
        try:
            conn.wire.flush()
        except OSError:
            self._drop(conn)
            return
        self._hold(conn, conn.wire.unsent)
        if not conn.wire.unsent:
            self._unwatch(conn)
            self._answered(conn)

    def _answered(self, conn: Connection) -> None:
        wire = conn.wire
        if not conn.stays or wire.is_at_end:
            self._leave(conn)
            return
        now = time.monotonic()
        if wire.received:
            conn.does, conn.since, conn.deadline = Does.SENDING, now, now + HEAD_S
            self._consider(conn)
            return
        conn.does, conn.since = Does.IDLE, now
        conn.set_timeout()
        if not self.alive:
            conn.timeout = min(conn.timeout, now + STOP_KEEPALIVE_LINGER)
        self.keepalived_conns.append(conn)
        self._watch(conn, selectors.EVENT_READ, self._receive)

    # -- the connection ends

    def _refuse(self, conn: Connection, status: int, detail: str = "") -> None:
        """Answer from the event loop: this request gets no thread."""
        from http.client import responses

        try:
            self._write_problem(cast("socket.socket", conn.wire), status, responses[status], detail)
            conn.wire.flush()
        except OSError:
            self._drop(conn)
            return
        self._unwatch(conn)
        self._leave(conn)

    def _leave(self, conn: Connection) -> None:
        """End it so that the client comes to read the answer: closed upon unread bytes, it would be reset."""
        conn.does = Does.LEAVING
        self._hold(conn, 0)
        conn.deadline = time.monotonic() + _LINGER_S
        try:
            conn.wire.raw.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(conn)
            return
        self._watch(conn, selectors.EVENT_READ, self._throw_away)
        self._throw_away(conn)

    def _throw_away(self, conn: Connection) -> None:
        try:
            size = conn.wire.raw.recv_into(self._scratch)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            size = 0
        conn.thrown_away += size
        if not size or conn.thrown_away > _MAX_THROWN_AWAY:
            self._drop(conn)

    def _drop(self, conn: Connection) -> None:
        if conn not in self._connections:
            return
        del self._connections[conn]
        if conn.does is Does.IDLE:
            self.keepalived_conns.remove(conn)
        self._unwatch(conn)
        self._hold(conn, 0)
        self.nr_conns -= 1
        conn.close()

    # -- deadlines and limits

    def murder_keepalived(self, force: bool = False) -> None:
        now = time.monotonic()
        while self.keepalived_conns and (force or self.keepalived_conns[0].timeout <= now):
            self._drop(self.keepalived_conns[0])

    def murder_pending(self) -> None:
        """Let those go who are too slow. Called at every turn of gunicorn's loop, at least once a second."""
        now = time.monotonic()
        if now < self._swept + _SWEEP_S:
            return
        waited_s, self._swept = now - self._swept, now
        self._door.committer.check()
        for conn in list(self._connections):
            if not self.alive and conn.does in (Does.SENDING, Does.LEAVING):
                conn.deadline = min(conn.deadline or now + STOP_KEEPALIVE_LINGER, now + STOP_KEEPALIVE_LINGER)
            if conn.deadline is not None:
                late = now >= conn.deadline
            else:
                late = conn.does in (Does.SENDING, Does.READING) and conn.wire.pace.is_too_slow(waited_s)
            if not late:
                continue
            if conn.does is Does.SENDING and conn.wire.received:
                self._count("slow_request")
                self._refuse(conn, 408)
            else:
                if conn.does is not Does.LEAVING:
                    self._count("unread_answer" if conn.does is Does.READING else "silent")
                self._drop(conn)
        if self._let_go and now >= self._reported + _REPORT_S:
            self._reported = now
            log.warning("slow_clients", extra={**self._let_go, "connections": self.nr_conns})
            self._let_go = {}

    def _make_room(self) -> None:
        """All places are taken: the one that is of least use goes, so that there is always room for the next."""
        slow = time.monotonic() - _FRESH_S

        def use(conn: Connection) -> tuple[int, float]:
            if conn.does is Does.LEAVING:
                return 0, conn.since
            if conn.does is Does.IDLE:
                return 2, conn.since
            return 1 if conn.since < slow else 3, conn.since

        victim = min((conn for conn in self._connections if conn.does is not Does.WORKING), key=use, default=None)
        if victim is not None:
            self._count("no_room")
            self._drop(victim)

    def _hold(self, conn: Connection, size: int) -> None:
        self._held += size - conn.held
        conn.held = size

    def _keep_within_memory(self) -> None:
        while self._held > MAX_HELD:
            waiting = [conn for conn in self._connections if conn.does in (Does.SENDING, Does.READING)]
            victim = max(waiting, key=lambda conn: conn.held, default=None)
            if victim is None or victim.held <= _SMALL:
                return
            self._count("too_much_held")
            if victim.does is Does.SENDING:
                self._refuse(victim, 503, "Too many large requests at once.")
            else:
                self._drop(victim)

    def _count(self, why: str) -> None:
        self._let_go[why] = self._let_go.get(why, 0) + 1

    # -- the poller

    def _do(self, what: Callable[..., None], conn: Connection, *args: Any) -> None:
        """One step with one connection. Whatever is wrong with it, the others of this process are not."""
        try:
            what(conn, *args)
        except Exception:
            log.exception("connection_failed")
            self._drop(conn)

    def _watch(self, conn: Connection, event: int, then: Callable[[Connection], None]) -> None:
        """Call ``then`` whenever the connection is ready for ``event``."""
        if conn.watching == event and conn.then == then:
            return
        self._unwatch(conn)
        conn.watching, conn.then = event, then
        self.poller.register(conn.wire.raw, event, lambda _: self._do(then, conn))

    def _unwatch(self, conn: Connection) -> None:
        if conn.watching:
            conn.watching = 0
            self.poller.unregister(conn.wire.raw)


def _enough_files(connections: int) -> int:
    """How many connections this process may have, after asking the system for descriptors for all of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        connections = min(connections, max(64, soft - _OTHER_FILES))
    return connections
