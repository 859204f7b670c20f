"""The fake that other tests stand on keeps the contract of the port."""

from __future__ import annotations

import pytest

from dlq_app.testing import MemoryIntake, MemoryRecord
from dlq_app.tests.intake_contract import IntakeContract, Put


class TestMemoryIntake(IntakeContract):
    @pytest.fixture
    def port(self) -> MemoryIntake:
        return MemoryIntake()

    @pytest.fixture
    def put(self, port: MemoryIntake) -> Put:
        def put(message_id: str, state: str, epoch: int) -> int:
            port.records[message_id] = MemoryRecord(state, epoch)
            return epoch

        return put
