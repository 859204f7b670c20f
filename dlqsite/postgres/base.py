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

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
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
        if level:
            connection.isolation_level = self.isolation_level
        connection.patience_s = settings.DATABASE_TIMEOUT + _ANSWER_S
        return connection
