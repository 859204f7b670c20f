"""One running system for all journeys, and two receivers to which it may deliver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dlqsite.tests.journeys.rig import Rig
from dlqsite.tests.receiver import Receiver

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
POLICY = """
[hosts."127.0.0.1:{port}"]
schemes = ["http"]
secrets = ["HOOKS_SECRET"]
allow_private = true
total_timeout_ms = 2000
"""


@pytest.fixture(scope="session")
def receivers() -> Iterator[tuple[Receiver, Receiver]]:
    with Receiver(secret=SECRET) as one, Receiver(secret=SECRET) as other:
        yield one, other


@pytest.fixture(scope="session")
def rig(tmp_path_factory: pytest.TempPathFactory, receivers: tuple[Receiver, Receiver]) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("journeys")
    policy = Path(folder, "delivery.toml")
    policy.write_text("".join(POLICY.format(port=receiver.port) for receiver in receivers))
    environment = {
        "DELIVERY_POLICY": str(policy),
        "HOOKS_SECRET": SECRET,
        "DJANGO_SETTINGS_MODULE": "dlqsite.tests.journeys.impatient",
        "WORKER_SHUTDOWN_GRACE": "3",
    }
    with Rig(folder, **environment) as running:
        yield running
