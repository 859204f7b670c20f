"""Run every role in the built image and stop each under load: ``make image-test``.

It starts Valkey, mongod and PostgreSQL outside, on loopback, and the roles of docker-compose.yml with podman or docker:
as the image's user, with a read-only root, no capability and no new privileges, on the host's network. While a client
submits messages, each role gets SIGTERM. It must exit 0 within its ``stop_grace_period``. In the end every acknowledged
message must be done or dead, once, and a notification must have arrived. Exit code 0, or 1 with a line about what
failed.

It needs root for podman, the image (``DLQ_IMAGE``, default ``dlq:local``), and five free ports of loopback from
``FIRST_PORT`` (21810) on.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pymongo
import redis
import yaml
from pymongo.errors import PyMongoError

from dlqsite.tests.postgres import Postgres
from management.embedded import Binary, mongod_binary, valkey_binary

ROOT = Path(__file__).resolve().parents[2]
IMAGE = os.environ.get("DLQ_IMAGE", "dlq:local")
FIRST_PORT = int(os.environ.get("FIRST_PORT", "21810"))
REDIS_PORT, MONGO_PORT, RECEIVER_PORT, *WEB_PORTS = range(FIRST_PORT, FIRST_PORT + 5)
#: Longest wait for a state that must come; generous, since it only limits a failure.
PATIENCE_S = 180
#: Messages that are acknowledged before the roles are stopped, between two stops, and after the last.
BETWEEN = 150
#: What the image must not need: a writable root, a capability, another user, more processes or files than these.
LIMITS = (
    *("--read-only", "--tmpfs", "/tmp:mode=1777,size=64m", "--tmpfs", "/data:mode=1777,size=64m"),  # noqa: S108
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "768m"),
    *("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096", "--network", "host", "--uts", "private"),
)


class Failed(Exception):
    """A promise of the image that does not hold."""


def say(text: str) -> None:
    print(f"roles: {text}", flush=True)


def wait_for(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            raise Failed(f"not within {PATIENCE_S} s: {what}")
        time.sleep(0.3)


class Engine:
    """podman, or docker, by their command line."""

    def __init__(self) -> None:
        name = os.environ.get("ENGINE") or next((name for name in ("podman", "docker") if shutil.which(name)), "")
        if not name:
            raise Failed("neither podman nor docker was found; on Debian and Ubuntu: apt install podman runc")
        # podman's usual runtime refuses machines with both versions of control groups; runc does not.
        runc = shutil.which("runc") or "/usr/sbin/runc"
        self.command = [name, "--runtime", runc] if name == "podman" and Path(runc).exists() else [name]
        self.names: list[str] = []

    def __call__(self, *arguments: str, ok: Sequence[int] = (0,)) -> str:
        done = subprocess.run([*self.command, *arguments], capture_output=True, text=True, check=False, timeout=300)
        if done.returncode not in ok:
            raise Failed(
                f"{' '.join(arguments[:3])} … exited {done.returncode}: {(done.stderr or done.stdout).strip()[-800:]}"
            )
        return done.stdout

    def start(self, name: str, environment: dict[str, str], command: Sequence[str], *options: str) -> None:
        variables = [part for key, value in environment.items() for part in ("--env", f"{key}={value}")]
        self.names.append(name)
        self("run", "--detach", "--name", name, "--hostname", name, *LIMITS, *options, *variables, IMAGE, *command)

    def finish(self, name: str, environment: dict[str, str], command: Sequence[str]) -> str:
        """Run a command to its end in a container of its own; return its output."""
        self.start(name, environment, command)
        code = self("wait", name).strip()
        words = self("logs", name)
        if code != "0":
            raise Failed(f"{' '.join(command)} exited {code}: {words[-800:]}")
        return words

    def stop(self, name: str, grace_s: int) -> float:
        """Send SIGTERM; return the seconds until it exited with 0."""
        began = time.monotonic()
        self("kill", "--signal", "TERM", name)
        code = self("wait", name).strip()
        took = time.monotonic() - began
        if code != "0":
            raise Failed(f"{name} exited {code} on SIGTERM: {self('logs', '--tail', '5', name)[-800:]}")
        if took > grace_s:
            raise Failed(f"{name} needed {took:.1f} s after SIGTERM, and is killed after {grace_s} s")
        return took

    def remove_all(self) -> None:
        for name in self.names:
            self("rm", "--force", name, ok=(0, 1))


@contextmanager
def stores() -> Iterator[dict[str, str]]:
    """Valkey, mongod and PostgreSQL on loopback; yields the variables that point to them."""
    valkey, mongod = valkey_binary(), mongod_binary()
    if not isinstance(valkey, Binary) or not isinstance(mongod, Binary):
        raise Failed("the embedded servers are missing: make install-dev")
    with tempfile.TemporaryDirectory(prefix="dlq-image-") as name, ExitStack() as running:
        folder = Path(name)
        for part in ("redis", "mongo"):
            (folder / part).mkdir()
        local = ("--bind", "127.0.0.1", "--port")
        for command in (
            [valkey.path, *local, str(REDIS_PORT), "--dir", str(folder / "redis"), "--appendonly", "yes", "--save", ""],
            [mongod.path, "--bind_ip", "127.0.0.1", "--port", str(MONGO_PORT), "--dbpath", str(folder / "mongo"),
             "--replSet", "rs0", "--oplogSize", "128", "--wiredTigerCacheSizeGB", "0.25",
             "--nounixsocket", "--noscripting"],
        ):  # fmt: skip
            with (folder / "log").open("ab") as log:
                process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            running.callback(process.wait, 30)
            running.callback(process.send_signal, signal.SIGTERM)
        postgres = Postgres()
        running.callback(postgres.remove)
        client: redis.Redis = redis.Redis(host="127.0.0.1", port=REDIS_PORT, socket_timeout=5)
        wait_for("Valkey answers", lambda: _answers(client))
        mongo_url = f"mongodb://127.0.0.1:{MONGO_PORT}/?directConnection=true"
        with pymongo.MongoClient[dict[str, Any]](mongo_url, serverSelectionTimeoutMS=1000) as mongo:
            wait_for("mongod is the primary", lambda: _primary(mongo))
        yield {
            "REDIS_URL": f"redis://127.0.0.1:{REDIS_PORT}/0",
            "MONGODB_URL": mongo_url,
            "DATABASE_URL": postgres.url,
        }


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def _primary(client: pymongo.MongoClient[dict[str, Any]]) -> bool:
    member = {"_id": 0, "host": f"127.0.0.1:{MONGO_PORT}"}
    try:
        hello = client.admin.command("hello")
        if not hello.get("setName"):
            client.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})
        return bool(hello.get("isWritablePrimary"))
    except PyMongoError:
        return False


class Receiver(BaseHTTPRequestHandler):
    """Takes notifications."""

    received: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        self.received.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@contextmanager
def receiver() -> Iterator[tuple[dict[str, str], tuple[str, ...]]]:
    """A receiver of notifications on loopback; yields the variables and options of the notifier's container."""
    with (
        tempfile.NamedTemporaryFile("w", suffix=".toml", dir=ROOT / "build") as policy,
        ThreadingHTTPServer(("127.0.0.1", RECEIVER_PORT), Receiver) as server,
    ):
        policy.write('[recipients.team]\nchannel = "apprise"\nurl_env = "TEAM_URL"\n')
        policy.flush()
        Path(policy.name).chmod(0o644)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        variables = {"TEAM_URL": f"json://127.0.0.1:{RECEIVER_PORT}", "NOTIFY_POLICY": "/etc/dlq/notify.toml"}
        yield variables, ("--volume", f"{policy.name}:/etc/dlq/notify.toml:ro")
        server.shutdown()


class Client(threading.Thread):
    """Submits messages one by one until it is stopped, and remembers the ids that were acknowledged with 202.

    A submission without an answer is repeated with its id at the other web container. What is not acknowledged then was
    not promised.
    """

    def __init__(self, key: str) -> None:
        super().__init__(daemon=True)
        self.headers = {"Authorization": f"Api-Key {key}", "Content-Type": "application/json"}
        self.accepted: list[str] = []
        self.refused: Counter[int] = Counter()
        self._ended = threading.Event()

    def run(self) -> None:
        number = 0
        while not self._ended.is_set():
            number += 1
            payload = {"delayMs": 300} if number % 10 else {"simulateError": True, "errorType": "VALIDATION_ERROR"}
            body = {"messageId": f"image-{number}", "type": "demo", "source": "image-test", "payload": payload}
            for turn in range(40):
                status = self._post(WEB_PORTS[(number + turn) % len(WEB_PORTS)], json.dumps(body))
                if status in (200, 202):
                    self.accepted.append(str(body["messageId"]))
                    break
                if status:
                    self.refused[status] += 1
                time.sleep(0.1)

    def _post(self, port: int, body: str) -> int:
        try:
            return call(port, "POST", "/api/messages", self.headers, body)[0]
        except (OSError, http.client.HTTPException):
            return 0  # no answer

    def more(self, count: int) -> None:
        """Wait until ``count`` further messages are acknowledged."""
        goal = len(self.accepted) + count
        wait_for(
            f"{count} more messages are accepted (rejected so far: {dict(self.refused)})",
            lambda: len(self.accepted) >= goal,
        )

    def end(self) -> None:
        self._ended.set()
        self.join(60)


def call(port: int, method: str, path: str, headers: dict[str, str], body: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def ready(port: int) -> bool:
    try:
        return call(port, "GET", "/api/system/ready", {})[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def roles_of_compose() -> dict[str, dict[str, Any]]:
    """The services that run this image, by name: command and grace period come from where they are deployed."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    return {
        name: service for name, service in services.items() if str(service.get("image", "")).startswith("${DLQ_IMAGE")
    }


def seconds(text: str) -> int:
    found = re.fullmatch(r"(\d+)s", text)
    if not found:
        raise Failed(f"stop_grace_period {text} is not in seconds, such as 20s")
    return int(found[1])


def isolation(engine: Engine, name: str) -> str:
    """What the kernel says about process 1 of the container."""
    status = dict(
        re.findall(
            r"^(Uid|CapEff|CapBnd|NoNewPrivs|Seccomp):\s+(\S+)", engine("exec", name, "cat", "/proc/1/status"), re.M
        )
    )
    if status["Uid"] != "10001" or int(status["CapBnd"], 16) or status["NoNewPrivs"] != "1":
        raise Failed(f"{name} has more rights than it should: {status}")
    try:
        engine("exec", name, "python", "-c", "open('/srv/dlq/x', 'w')")
    except Failed as error:
        if "Read-only file system" not in str(error):
            raise
    else:
        raise Failed(f"the root of {name} is writable")
    return f"user {status['Uid']}, no capability, no new privileges, seccomp {status['Seccomp']}, read-only root"


def try_roles(engine: Engine, environment: dict[str, str], notifier: tuple[dict[str, str], tuple[str, ...]]) -> None:
    services = roles_of_compose()
    prepare = services.pop("prepare")
    suffix = secrets.token_hex(3)
    for turn in (1, 2):
        words = engine.finish(f"dlq-prepare{turn}-{suffix}", environment, prepare["command"])
        say(f"prepare, run {turn}: {words.strip().splitlines()[-1]}")
    create = ("python", "manage.py", "create_api_key", "image-test", "--json", "--rate", "0")
    scopes = ("--scope", "submit", "--scope", "read")
    words = engine.finish(f"dlq-key-{suffix}", environment, [*create, *scopes])
    key = json.loads(next(line for line in words.splitlines() if line.startswith('{"name"')))["apiKey"]

    # Two of web and worker, so that one can stop while the other goes on.
    def start(role: str, turn: int) -> str:
        name = f"dlq-{role.replace('_', '-')}{turn}-{suffix}"
        port = {"PORT": str(WEB_PORTS[turn % len(WEB_PORTS)])} if role == "web" else {}
        own, options = notifier if role == "notifier" else ({}, ())
        engine.start(name, environment | port | own, services[role].get("command", ()), *options)
        return name

    running = {
        (role, turn): start(role, turn) for role in services for turn in range(2 if role in ("web", "worker") else 1)
    }
    for port in WEB_PORTS:
        wait_for(f"web is ready on port {port}", lambda: ready(port))  # noqa: B023 - called before the next port
    for (role, _), name in running.items():
        if role != "web":
            wait_for(f"doctor --alive in {name}", lambda: _alive(engine, name))  # noqa: B023 - the same
        say(f"{role}: {isolation(engine, name)}")

    client = Client(key)
    client.start()
    client.more(BETWEEN)
    for (role, turn), name in running.items():
        grace = seconds(services[role]["stop_grace_period"])
        used = engine("stats", "--no-stream", "--format", "{{.MemUsage}}", name).strip()
        took = engine.stop(name, grace)
        say(
            f"{role}: SIGTERM under load, exit 0 after {took:.1f} s of {grace} s; memory {used}; "
            f"{len(client.accepted)} accepted"
        )
        running[role, turn] = start(role, turn + 2)
        client.more(BETWEEN)
        if role == "web":
            wait_for("web is ready again", lambda: ready(WEB_PORTS[turn % len(WEB_PORTS)]))  # noqa: B023 - the same
    client.end()
    say(f"{len(client.accepted)} messages accepted; other answers: {dict(client.refused) or 'none'}")
    judge(client)
    wait_for("a notification arrives", lambda: bool(Receiver.received))
    say(f"{len(Receiver.received)} notifications received, such as {Receiver.received[0][:160]!r}")
    for (role, _), name in running.items():
        engine.stop(name, seconds(services[role]["stop_grace_period"]))
    say("all roles stopped with exit 0")


def _alive(engine: Engine, name: str) -> bool:
    try:
        engine("exec", name, "python", "manage.py", "doctor", "--alive")
    except Failed:
        return False
    return True


def judge(client: Client) -> None:
    """Every acknowledged message ends, and as its payload says."""
    ids = set(client.accepted)
    if len(ids) != len(client.accepted):
        raise Failed("a message was accepted twice")
    states: dict[str, str] = {}

    def all_ended() -> bool:
        for message_id in sorted(ids - states.keys()):
            status, body = call(WEB_PORTS[0], "GET", f"/api/messages/{message_id}", client.headers)
            if status != 200:
                raise Failed(f"{message_id} was acknowledged and is gone: {status} {body[:200]!r}")
            state = json.loads(body)["data"]["status"]
            if state not in ("done", "dead"):
                return False
            states[message_id] = state
        return True

    wait_for("every acknowledged message has ended", all_ended)
    wrong = [one for one, state in states.items() if (state == "dead") != (int(one.split("-")[1]) % 10 == 0)]
    if wrong:
        raise Failed(
            f"{len(wrong)} messages ended otherwise than their payload says, such as {wrong[0]}: {states[wrong[0]]}"
        )
    say(f"every acknowledged message ended: {dict(Counter(states.values()))}")


def main() -> int:
    try:
        engine = Engine()
        (ROOT / "build").mkdir(exist_ok=True)
        with stores() as addresses, receiver() as notifier, ExitStack() as clean_up:
            clean_up.callback(engine.remove_all)
            environment = {
                **addresses,
                "SECRET_KEY": secrets.token_urlsafe(50),
                "HOST": "127.0.0.1",
                "HTTPS": "false",
                "ENVIRONMENT": "staging",
                "DEMO_HANDLER": "true",
                "RATE_LIMIT_PER_MINUTE": "0",
                "READ_RATE_LIMIT_PER_MINUTE": "0",
            }
            try_roles(engine, environment, notifier)
    except Failed as error:
        print(f"roles: FAILED: {error}", file=sys.stderr)
        return 1
    say("every promise holds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
