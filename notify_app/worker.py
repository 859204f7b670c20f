"""The notifier: one thread looks at the sources, and one thread per recipient sends.

A recipient that hangs delays only its own notifications. Nothing here is on the path of a message.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from django.db import Error as DatabaseError
from django.db import close_old_connections, connections

from notify_app import conf
from notify_app.collecting.collector import Collector
from notify_app.collecting.sources import HealthSeen
from notify_app.domain.policy import Recipient
from notify_app.models import Notification, State
from notify_app.senders import sending
from notify_app.store import outbox
from notify_app.store.outbox import Result
from processes.essential import Essential
from processes.names import new_name
from processes.steps import step
from processes.turns import OutageLog
from wire.errors import StoreUnavailable

log = logging.getLogger(__name__)

#: Seconds between two looks at the sources, and maximum pause of a sender.
LOOK_S = 15.0
SEND_S = 5.0
#: Pause after an error of the database, in seconds.
AGAIN_S = 2.0


class Notifier:
    """Any number can run: events are recorded once, and each notification is claimed by one of them."""

    def __init__(
        self, health: Callable[[], HealthSeen] | None = None, *, look_s: float = LOOK_S, send_s: float = SEND_S
    ) -> None:
        self.name = f"notifier-{new_name()}"
        self._look_s, self.send_s = look_s, send_s
        self._stop = threading.Event()
        #: Set when there may be something to send.
        self._wake = threading.Condition()
        self._sent = 0
        self._collector = Collector(health, is_stopping=self._stop.is_set)
        self._threads = [Essential(self._collect, "collect", may_end=self._stop.is_set)]
        for recipient in conf.policy().recipients.values():
            sender = Sender(recipient, self)
            self._threads.append(Essential(sender.run, f"send-{recipient.name}", may_end=self._stop.is_set))

    def run(self, grace_s: float) -> None:
        """Work until ``stop``; then wait at most ``grace_s`` for what is being sent.

        What has not ended by then is uncertain once its lease ends; a webhook is sent again with the same id.
        """
        log.info("notifier_started", extra={"notifier": self.name})
        for thread in self._threads:
            thread.start()
        self._stop.wait()
        until = time.monotonic() + grace_s
        for thread in self._threads:
            thread.join(max(0.1, until - time.monotonic()))
        log.info("notifier_stopped", extra={"notifier": self.name, "sent": self._sent})

    def stop(self) -> None:
        """Stop after the current step. From a signal handler, call it on another thread."""
        self._stop.set()
        with self._wake:
            self._wake.notify_all()

    @property
    def is_stopping(self) -> bool:
        return self._stop.is_set()

    def pause(self, seconds: float) -> None:
        """Wait until there may be something to send, at most ``seconds``."""
        with self._wake:
            if not self.is_stopping:
                self._wake.wait(seconds)

    def count(self, result: Result) -> None:
        self._sent += result.state is State.SENT

    def _collect(self) -> None:
        while not self.is_stopping:
            close_old_connections()
            found = self._collector.look()
            close_old_connections()
            if found:
                with self._wake:
                    self._wake.notify_all()
            self._stop.wait(self._look_s)
        connections.close_all()


class Sender:
    """Sends the notifications of one recipient, one after the other."""

    def __init__(self, recipient: Recipient, owner: Notifier) -> None:
        self._recipient = recipient
        self._owner = owner
        self._outage = OutageLog(log, "notify_store_away", "notify_store_back", recipient=recipient.name)

    def run(self) -> None:
        """Send until the notifier stops."""
        while not self._owner.is_stopping:
            close_old_connections()
            try:
                pause_s = self.turn()
            except (DatabaseError, StoreUnavailable) as error:
                self._outage.failed(error)
                pause_s = AGAIN_S
            else:
                self._outage.succeeded()
            finally:
                close_old_connections()
            if pause_s > 0:
                self._owner.pause(pause_s)
        connections.close_all()  # this thread's own

    def turn(self) -> float:
        """Send one notification, if one is due; return the seconds until the next turn."""
        now = datetime.now(UTC)
        name, limits = self._recipient.name, conf.policy().limits
        with step("look for notifications"):
            lost = outbox.end_lost(name, now, repeatable=sending.is_repeatable(self._recipient))
            if lost:
                log.warning("notifications_lost", extra={"recipient": name, "count": lost})
            outbox.release_held(self._recipient, limits, now)
            claimed = outbox.claim(name, now)
        if claimed is None:
            due_at = outbox.next_due(name)
            until_due = (due_at - now).total_seconds() if due_at else self._owner.send_s
            return min(max(until_due, 0.2), self._owner.send_s)
        with step("send a notification"):
            result = sending.send(self._recipient, sending.content_of(claimed))
        self._note(claimed, result)
        return 0.0

    def _note(self, claimed: Notification, result: Result) -> None:
        """Record the result. While the database does not answer, repeat it until the lease ends."""
        entry = {"recipient": self._recipient.name, "notification": claimed.pk, "event_kind": claimed.event}
        while True:
            now = datetime.now(UTC)
            try:
                with step("record a result"):
                    outbox.note(claimed, result, now)
                break
            except DatabaseError as error:
                if claimed.lease_until is None or now > claimed.lease_until:
                    log.error("notification_unrecorded", extra={**entry, "why": type(error).__name__})
                    raise
                time.sleep(AGAIN_S)
                close_old_connections()
        self._owner.count(result)
        if result.state is State.SENT:
            log.info("notification_sent", extra=entry)
        else:
            found = "uncertain" if result.state is State.UNCERTAIN else "refused"
            log.warning("notification_unsent", extra={**entry, "result": found, "why": result.error})
