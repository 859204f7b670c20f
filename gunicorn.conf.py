"""How the web server runs, here and in containers. Read by gunicorn from the working directory."""

import os

bind = os.environ.get("BIND") or f"{os.environ.get('HOST', '127.0.0.1')}:{os.environ.get('PORT', '8000')}"
# Threads of gunicorn's own, kept away from slow clients. See the module.
worker_class = "dlqsite.web.worker.BufferedWorker"
workers = int(os.environ.get("WEB_PROCESSES") or 2)
threads = int(os.environ.get("WEB_THREADS") or 4)
# Imported once and then forked: half the time to start, less memory. Connections are made per process, after the fork.
preload_app = True
backlog = 2048
# Of each process. Past it, the slowest client goes: there is always room for the next.
worker_connections = 1000
keepalive = 75
graceful_timeout = 10
# Of silence of a process's event loop, never of a request: something holds its interpreter. More than WATCHDOG_TIMEOUT,
# since this clock goes on while a process waits for a CPU.
timeout = 30
# Two instances of one user would share the control socket.
control_socket_disable = True
# The heartbeat file must not wait for a disk.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108
# One line a request is the project's own log.
accesslog = None
errorlog = "-"
loglevel = "warning"
# Long lists of filters fit.
limit_request_line = 8190


def post_fork(server: object, worker: object) -> None:
    """Answer what is no HTTP as every other error is answered: Gunicorn has no setting for it. Start tracing."""
    from gunicorn import util

    from dlqsite.api.problems import write_problem
    from processes import tracing

    util.write_error = write_problem
    tracing.begin()


def worker_exit(server: object, worker: object) -> None:
    """End a process that was asked to stop, without Python's exit handlers.

    These take half a second of CPU time to free modules, and wait for threads that a silent store holds.
    """
    import sys

    ending = sys.exc_info()[1]
    if isinstance(ending, SystemExit) and not ending.code:
        from messages_app.work import measuring
        from processes.hard_exit import hard_exit

        measuring.end()
        hard_exit(0)


def on_exit(server: object) -> None:
    """End the arbiter in the same way, with its exit code. It serves no requests, so it has nothing to send."""
    import sys

    from processes.hard_exit import hard_exit

    hard_exit(getattr(sys.exc_info()[1], "exit_status", 0))
