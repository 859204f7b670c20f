"""The local stack: one data directory, its stores, web, workers and cron, and what the person at the terminal reads."""

from __future__ import annotations

import errno
import http.client
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from dlq_app.domain.store_problem import FULL_DISK
from management import embedded
from management.child_log import ChildLog
from management.data_directory import DataDirectory, write_private
from management.errors import StackError, Stopped
from management.reload import Reloader, folders
from management.supervisor import APP, MONGOD, REDIS, Role, Supervisor
from messages_app import conf
from notify_app import conf as notify_conf

PROJECT = Path(__file__).resolve().parent.parent
ADMIN_USER = "admin"
#: A worker's last steps after ``WORKER_SHUTDOWN_GRACE`` take up to 6 s while no store answers.
LAST_STEPS_S = 10.0
#: Roles that say in health how many of them are alive.
_ROLES = ("workers", "scheduler", "dlqWorker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the environment says about the stack. Empty URLs mean: ours."""

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 8000
    redis_url: str = ""
    mongodb_url: str = ""
    database: str = "dlq"
    workers: int = 1
    #: Whether a change of code or policies restarts the roles.
    reload: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Options:
        """Raises StackError naming the variable that makes no sense."""
        return cls(
            data_dir=Path(environment.get("DATA_DIR") or PROJECT / "var").expanduser().absolute(),
            host=environment.get("HOST") or "127.0.0.1",
            port=_number(environment, "PORT", 8000, 0, 65535),
            redis_url=environment.get("REDIS_URL", ""),
            mongodb_url=environment.get("MONGODB_URL", ""),
            database=environment.get("MONGODB_DATABASE") or "dlq",
            workers=_number(environment, "WORKERS", 1, 1, 64),
            reload=_switch(environment.get("RELOAD") or "false"),
        )


def _switch(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise StackError(f"RELOAD is {text!r}: use true or false")
    return text.lower() == "true"


def _number(environment: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise StackError(f"{name} is {text!r}: use a number from {least} to {most}")
    return int(text)


def full_disk(folder: Path) -> str:
    """In words that, and where, the disk is full; empty when it is not. A store needs a few MB to start."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"{folder}: {error.strerror}"
    return f"the disk of {folder} is full ({free // 1024**2} MB left)" if free < FULL_DISK else ""


def listen(host: str, port: int) -> socket.socket:
    """The web server's listening socket. Held by the supervisor, so that no connection is refused while web restarts.

    Raises StackError when the port is in use or the address is not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise StackError(f"port {port} on {host} is in use: choose another, make up PORT={port + 1}") from error
        raise StackError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    return listener


@dataclass(slots=True, repr=False)
class Stack:
    """Runs everything until asked to stop. ``environment`` is what the children start from."""

    options: Options
    environment: Mapping[str, str]
    say: Callable[[str], None]
    python: str = sys.executable
    _data: DataDirectory = field(init=False)
    _supervisor: Supervisor = field(init=False)
    _listener: socket.socket = field(init=False)
    _env: dict[str, str] = field(init=False)
    _run: Path | None = None
    _ready: bool = False
    _complaints: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Start, say what is where, follow, stop. Raises StackError, with nothing left running, when it cannot."""
        begun = time.monotonic()
        self._data = DataDirectory(self.options.data_dir)
        lock = self._data.lock(self.say)
        if self._data.tightened:
            self.say(self._data.tightened)
        try:
            self._listener = listen(self.options.host, self.options.port)
            try:
                self._supervise(lock, begun)
            finally:
                self._listener.close()
        finally:
            self._data.release()

    def _supervise(self, lock: int, begun: float) -> None:
        self._supervisor = Supervisor(
            log_for=lambda name: ChildLog(self._data.logs / f"{name}.log"),
            say=self.say,
            changed=self._children_changed,
            lock_fd=lock,
        )
        with self._supervisor.signals(), ExitStack() as stopping:
            try:
                self._start_stores()
                first = self._prepare()
                self._start_apps()
                self._supervisor.wait_until(self._healthy, "the system was not healthy", 60, pause=0.1)
                self._ready = True
                self._children_changed(self._supervisor.pids())
                self._announce(time.monotonic() - begun, first)
                if self.options.reload:
                    reloader = self._reloader()
                    self._supervisor.look = reloader.look
                    stopping.callback(reloader.close)
                self._supervisor.watch()
            except Stopped:
                pass  # asked to stop while starting
            finally:
                self._ready = False
                if self._supervisor.stopping:
                    self.say("Stopping: running messages can finish")
                self._data.connection.unlink(missing_ok=True)
                self._listener.close()  # else clients would go on connecting to nobody
                self._supervisor.stop()
                if self._run is not None:
                    with suppress(OSError):  # a socket that a killed server left behind is replaced by the next one
                        self._run.rmdir()
        self.say(f"Stopped. The data stays in {self._data.path}")

    def _start_stores(self) -> None:
        run = self._run = embedded.runtime_folder(self._data.path)
        redis = embedded.choose("REDIS_URL", self.options.redis_url, embedded.valkey_binary)
        mongodb = embedded.choose("MONGODB_URL", self.options.mongodb_url, embedded.mongod_binary)
        if isinstance(redis, embedded.Binary):
            self.say(f"redis: Valkey or Redis {embedded.probe(redis)} from {redis.origin}")
        if isinstance(mongodb, embedded.Binary):
            self.say(f"mongod: MongoDB {embedded.probe(mongodb)} from {mongodb.origin}")
        redis_url, mongodb_url = self.options.redis_url, self.options.mongodb_url
        if isinstance(redis, embedded.Binary):
            valkey = embedded.Valkey(redis, self._data.redis, run)
            self._supervisor.start(
                Role(
                    name="redis",
                    command=valkey.command,
                    tier=REDIS,
                    ready=valkey.ready,
                    hindrance=partial(full_disk, self._data.redis),
                    show_warnings=False,
                )
            )
            redis_url = valkey.url
        else:
            embedded.require_redis(redis.url)
            self.say(f"redis: {embedded.without_password(redis.url)}, as REDIS_URL says")
        if isinstance(mongodb, embedded.Binary):
            mongod = embedded.Mongod(mongodb, self._data.mongod, run)
            self._supervisor.start(
                Role(
                    name="mongod",
                    command=mongod.command,
                    tier=MONGOD,
                    grace=40,
                    ready=mongod.ready,
                    hindrance=partial(full_disk, self._data.mongod),
                    show_warnings=False,
                )
            )
            mongodb_url = mongod.url
        else:
            embedded.require_mongodb(mongodb.url)
            self.say(f"mongodb: {embedded.without_password(mongodb.url)}, as MONGODB_URL says")
        self._env = self._child_environment(redis_url, mongodb_url)

    def _child_environment(self, redis_url: str, mongodb_url: str) -> dict[str, str]:
        env = dict(self.environment)
        env.update(
            DATA_DIR=str(self._data.path),
            REDIS_URL=redis_url,
            MONGODB_URL=mongodb_url,
            MONGODB_DATABASE=self.options.database,
            PYTHONUNBUFFERED="1",
        )
        env["SECRET_KEY"] = env.get("SECRET_KEY") or self._data.secret_key()
        env.setdefault("CONSOLE_URL", self._url)
        # Plain http on loopback; whoever serves others sets it, and puts a proxy in front.
        env.setdefault("HTTPS", "false")
        return env

    def _prepare(self) -> bool:
        """Bring tables, indexes, static files, the first user and the key up to date. True on the first run."""
        before = self._data.read_credentials()
        command = [self.python, "manage.py", "prepare", "--credentials", str(self._data.credentials)]
        self._supervisor.run_once(
            Role(name="prepare", command=command, env=self._env, cwd=str(PROJECT), show_warnings=False), timeout=300
        )
        return "adminPassword" not in before and "adminPassword" in self._data.read_credentials()

    def _start_apps(self) -> None:
        web = [self.python, "-m", "gunicorn", "--config", "gunicorn.conf.py", "dlqsite.wsgi:application"]
        listener = self._listener.fileno()
        web_env = {**self._env, "BIND": f"fd://{listener}"}
        self._supervisor.launch(
            Role(name="web", command=web, env=web_env, cwd=str(PROJECT), grace=15, pass_fds=(listener,))
        )
        for number in range(1, self.options.workers + 1):
            self._supervisor.launch(self._role("worker" if number == 1 else f"worker_{number}", "run_worker"))
        self._supervisor.launch(self._role("dlq_worker", "run_dlq_worker"))
        self._supervisor.launch(self._role("cron", "run_cron"))
        if notify_conf.is_configured():
            self._supervisor.launch(self._role("notifier", "run_notifier"))

    def _reloader(self) -> Reloader:
        return Reloader(
            folders=folders(),
            check=[self.python, "manage.py", "check"],
            env=self._env,
            cwd=PROJECT,
            say=lambda text: self.say(f"reload: {text}"),
            restart=self._supervisor.replace_apps,
        )

    def _role(self, name: str, command: str) -> Role:
        return Role(
            name=name,
            command=[self.python, "manage.py", command],
            env=self._env,
            cwd=str(PROJECT),
            tier=APP,
            grace=conf.shutdown_grace_s() + LAST_STEPS_S,
        )

    @property
    def _address(self) -> tuple[str, int]:
        host, port = self._listener.getsockname()[:2]
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port  # noqa: S104 - compared, not bound

    @property
    def _url(self) -> str:
        host, port = self._address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def _healthy(self) -> bool:
        """True when every part responds and every role has reported from the process started here.

        Problems of work or data, such as an open breaker or an unacknowledged loss, are announced but not waited for:
        waiting does not fix them.
        """
        health = self._get("/api/system/health")
        if health is None:
            return False
        checks = health.get("checks", {})
        all_run, self._complaints = judged(checks)
        if not all_run:
            return False
        ours = self._supervisor.pids()
        reported = embedded.reporting_pids(self._env["REDIS_URL"])
        return all(ours[name] in reported for name in ours if name not in {"redis", "mongod", "web"})

    def _get(self, path: str) -> dict[str, Any] | None:
        """The data of a successful answer, else None."""
        connection = http.client.HTTPConnection(*self._address, timeout=2)
        try:
            connection.request("GET", path, headers={"Authorization": f"Api-Key {self._api_key()}"})
            answer = connection.getresponse()
            body = answer.read()
            found = json.loads(body) if answer.status == 200 else None
        except (OSError, http.client.HTTPException, ValueError):
            return None  # still importing
        finally:
            connection.close()
        return found["data"] if isinstance(found, dict) else None

    def _api_key(self) -> str:
        return self._data.read_credentials().get("apiKey", "")

    def _children_changed(self, pids: dict[str, int]) -> None:
        """Keep connection.json true while the stack is up."""
        if not self._ready:
            return
        credentials = self._data.read_credentials()
        found = {
            "url": self._url,
            "apiKey": credentials.get("apiKey"),
            "adminUser": credentials.get("adminUser", ADMIN_USER),
            "adminPassword": credentials.get("adminPassword"),
            "redisUrl": self._env["REDIS_URL"],
            "mongodbUrl": self._env["MONGODB_URL"],
            "database": self._env["MONGODB_DATABASE"],
            "pids": {"supervisor": os.getpid(), **pids},
        }
        known = {name: value for name, value in found.items() if value is not None}
        try:
            write_private(self._data.connection, json.dumps(known, indent=2) + "\n")
        except OSError as error:  # a full disk: the process runs all the same
            self.say(f"{self._data.connection} could not be written and lists processes that have ended: {error}")

    def _announce(self, seconds: float, first: bool) -> None:
        credentials = self._data.read_credentials()
        url, user = self._url, credentials.get("adminUser", ADMIN_USER)
        if first:
            login = f"{user} / {credentials['adminPassword']}   (shown this once; change it in the console)"
        else:
            login = f"{user}, with its password"
        self.say(
            f"""Ready in {seconds:.1f} s.

  Console   {url}/admin/     {login}
  API       {url}/api/docs
  Health    {url}/api/system/health
  Logs      {self._data.logs}

  Send a message:
  curl -sS {url}/api/messages -H 'Authorization: Api-Key {credentials.get("apiKey", "")}' \\
    -H 'Content-Type: application/json' -d '{{"type": "demo", "payload": {{"hello": "world"}}}}'

Ctrl-C stops everything; the data stays."""
        )
        for complaint in self._complaints:
            self.say(f"Check {complaint}")


def judged(checks: Mapping[str, Mapping[str, Any]]) -> tuple[bool, list[str]]:
    """Whether every part runs, and what else health complains about.

    Workers that RQ's command has suspended are unhealthy, and they run.
    """
    stopped = {name for name, check in checks.items() if check.get("status") == "unhealthy"} - {"workers"}
    absent = {name for name in _ROLES if not checks.get(name, {}).get("alive")}
    return not stopped | absent, [
        f"{name}: {check['detail']}" for name, check in checks.items() if check.get("detail") and name not in absent
    ]
