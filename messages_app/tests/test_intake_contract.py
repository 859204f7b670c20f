"""The port to intake over the real ledger keeps the contract that dead letters rely on."""

from __future__ import annotations

import pytest
import redis

from dlq_app.tests.intake_contract import IntakeContract, Put
from messages_app.domain.records import Completed, Failed
from messages_app.services import IntakePort
from messages_app.store.ledger import ledger
from messages_app.tests.ledgers import acceptance, token

pytestmark = pytest.mark.redis


class TestIntakePort(IntakeContract):
    @pytest.fixture
    def port(self, redis_client: redis.Redis) -> IntakePort:
        return IntakePort()

    @pytest.fixture
    def put(self, port: IntakePort) -> Put:
        def put(message_id: str, state: str, epoch: int) -> int:
            """By the moves of the ledger; it draws the epoch itself."""
            later = port.now_ms() + 60_000 if state == "scheduled" else None
            ledger().accept(acceptance(message_id, not_before_ms=later))
            if state not in ("scheduled", "queued"):
                (claimed,) = ledger().claim(token=token(), limit=1, owner="w1", holding=0).records
                if state == "done":
                    ledger().flush(
                        [Completed(message_id=message_id, fence=claimed.fence, result="null", attempt_json="")]
                    )
                elif state != "running":
                    delay_ms = 60_000 if state == "retry_wait" else None
                    failed = Failed(
                        message_id=message_id, fence=claimed.fence, delay_ms=delay_ms, error="{}", attempt_json=""
                    )
                    ledger().flush([failed])
            record = ledger().get(message_id)
            assert record is not None
            if state == "dead":
                ledger().drained([(message_id, record.epoch, "death")])
                record = ledger().get(message_id)
                assert record is not None
            assert record.state == state
            return record.epoch

        return put
