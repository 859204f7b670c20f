"""The backend that Django loads for ``ENGINE = "dlqsite.postgres"``: connections that do not wait for ever."""

from __future__ import annotations

from typing import Any

import psycopg
from django.conf import settings
from django.db.backends.postgresql import base
from psycopg.abc import PQGen

from dlqsite.postgres.line import T, line

#: Seconds that the server has, after its own time-out, to say that it stopped a statement.
_ANSWER_S = 1.0


class Connection(psycopg.Connection[Any]):
    """A connection that is closed when the server stays silent."""

    #: Seconds; None waits without a bound.
    patience_s: float | None = None
    #: Whether the server was asked anything since the session was as new.
    is_used = False

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        self.is_used = True
        try:
            return super().wait(line.answering(gen, self.patience_s), interval, timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                self.pgconn.finish()  # an answer that comes now would be taken for that to the next question
            raise

    def be_patient(self) -> None:
        """Wait for the server as long as a statement takes, as migrations must."""
        self.patience_s = None
        self.execute("SET statement_timeout = 0")


class DatabaseWrapper(base.DatabaseWrapper):
    """Django's, with ``Connection`` in the place of psycopg's class. Knows no pool."""

    def get_new_connection(self, conn_params: dict[str, Any]) -> Connection:
        level = self.settings_dict["OPTIONS"].get("isolation_level")
        self.isolation_level = psycopg.IsolationLevel(level or psycopg.IsolationLevel.READ_COMMITTED)
        with line.connecting():
            connection = Connection.connect(**conn_params)
        self._set_attributes(connection)
        return connection

    def reset_session(self) -> None:
        """Make a kept connection as new: no setting, lock, temporary table, cursor or LISTEN of its user is left.

        Costs one round trip if the server was asked anything since the last time, else nothing. Raises Django's
        ``DatabaseError`` when that fails, for instance within a transaction: close the connection then.
        """
        connection = self.connection
        if connection is None or not connection.is_used:
            return
        with self.wrap_database_errors:
            connection.execute("DISCARD ALL")
            self._set_attributes(connection)
            self.init_connection_state()
        connection.is_used = False

    def _set_attributes(self, connection: Connection) -> None:
        """What psycopg sends along with each transaction, and how long an answer may take."""
        connection.isolation_level = (
            self.isolation_level if self.settings_dict["OPTIONS"].get("isolation_level") else None
        )
        connection.read_only = connection.deferrable = None
        connection.patience_s = settings.DATABASE_TIMEOUT + _ANSWER_S
