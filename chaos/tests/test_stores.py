from __future__ import annotations

import socket
import threading

import pytest
import redis

from chaos.stores import redis_at


def test_a_server_that_does_not_answer_is_asked_once() -> None:
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def keep_silent() -> None:
            while True:
                try:
                    line, _ = server.accept()
                except OSError:
                    return
                with line:
                    while received := line.recv(4096):
                        asked.append(received)

        thread = threading.Thread(target=keep_silent, daemon=True)
        thread.start()
        with redis_at(server.getsockname()[1], 0.2) as client, pytest.raises(redis.TimeoutError):
            client.info("replication")
        server.shutdown(socket.SHUT_RDWR)
        thread.join()

    assert len(asked) == 1
