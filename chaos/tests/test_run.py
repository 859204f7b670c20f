from __future__ import annotations

import threading

import pytest

from chaos.run import thread_errors


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_that_ends_a_thread_is_a_violation() -> None:
    def fail() -> None:
        raise RuntimeError("the clients are gone")

    with thread_errors() as errors:
        thread = threading.Thread(target=fail, name="operator")
        thread.start()
        thread.join()

    assert errors == ["operator: RuntimeError('the clients are gone')"]
