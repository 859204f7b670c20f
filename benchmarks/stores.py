"""The Redis and the mongod of a series: the same two servers, with the same settings, for every contestant."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path
from typing import Any

import pymongo
import redis
from pymongo.errors import OperationFailure, PyMongoError

from management.embedded import MALLOC

from . import places
from .processes import Child, plain_environment

OURS_DATABASE = "dlq"
PEERS_DATABASE = "peers"


class Stores:
    """Starts both servers on free loopback ports; ``stop`` ends them. What ``folder`` held before is thrown away.

    Programs and settings of the local stack of this project (``management.embedded``), but on TCP, which every peer
    can use. Redis: append-only file with ``everysec``, no snapshots, no eviction. MongoDB: a replica set of one.
    """

    def __init__(self, folder: Path, log_folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        redis_folder, mongo_folder = folder / "redis", folder / "mongo"
        redis_folder.mkdir(parents=True)
        mongo_folder.mkdir(parents=True)
        self.redis_port, self.mongo_port = places.free_port(), places.free_port()
        environment = plain_environment()
        self.redis_server = Child(
            [places.redis_server(), "--port", str(self.redis_port), "--bind", "127.0.0.1", "--dir", str(redis_folder),
             "--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction",
             "--loglevel", "warning"],
            env=environment | MALLOC, log=log_folder / "redis.log",
        )  # fmt: skip
        self.mongod = Child(
            [places.mongod(), "--port", str(self.mongo_port), "--bind_ip", "127.0.0.1", "--dbpath", str(mongo_folder),
             "--replSet", "rs0", "--oplogSize", "128", "--wiredTigerCacheSizeGB", "0.25",
             "--networkMessageCompressors", "disabled", "--nounixsocket", "--noscripting",
             "--setParameter", "diagnosticDataCollectionEnabled=false"],
            env=environment, log=log_folder / "mongod.log",
        )  # fmt: skip
        try:
            self.redis_server.listening(self.redis_port)
            self.mongod.listening(self.mongo_port)
            self.redis: redis.Redis = redis.Redis(port=self.redis_port)
            self.mongo: pymongo.MongoClient[dict[str, Any]] = self._primary()
        except BaseException:
            # Also on Ctrl-C: the servers can be stopped only through this object.
            self.stop()
            raise

    def _primary(self) -> pymongo.MongoClient[dict[str, Any]]:
        url = f"mongodb://127.0.0.1:{self.mongo_port}/?directConnection=true"
        deadline = time.monotonic() + 30
        with pymongo.MongoClient(url) as first:
            try:
                member = {"_id": 0, "host": f"127.0.0.1:{self.mongo_port}"}
                first.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})
            except OperationFailure as error:
                if error.codeName != "AlreadyInitialized":
                    raise
        # A client made before the initiation goes on seeing a standalone server.
        client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(url)
        while True:
            with contextlib.suppress(PyMongoError):
                if client.admin.command("hello")["isWritablePrimary"]:
                    return client
            if time.monotonic() > deadline:
                raise self.mongod.failed("did not become primary")
            time.sleep(0.05)

    @property
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{self.redis_port}/0"

    @property
    def ours_mongodb_url(self) -> str:
        return f"mongodb://127.0.0.1:{self.mongo_port}/?directConnection=true"

    @property
    def peers_mongodb_url(self) -> str:
        """The peers write with ``w: 1``, not waiting for the journal: faster and weaker than what ours waits for."""
        options = "directConnection=true&w=1&journal=false"
        return f"mongodb://127.0.0.1:{self.mongo_port}/{PEERS_DATABASE}?{options}"

    def empty(self) -> None:
        """Nothing left of the last measurement. Indexes stay; collections are emptied, not dropped."""
        self.redis.flushall()
        for name in (OURS_DATABASE, PEERS_DATABASE):
            database = self.mongo[name]
            for collection in database.list_collection_names(filter={"name": {"$not": {"$regex": "^system\\."}}}):
                database[collection].delete_many({})

    def letters(self, database: str) -> int:
        """Dead letters stored, from the collection's metadata: costs the server nothing while it is being measured."""
        return self.mongo[database]["dead_letters"].estimated_document_count()

    def versions(self) -> dict[str, str]:
        """What runs: name and version of both servers."""
        info: Any = self.redis.info("server")
        name, version = (
            ("Valkey", info["valkey_version"]) if "valkey_version" in info else ("Redis", info["redis_version"])
        )
        return {name: version, "mongod": self.mongo.server_info()["version"]}

    def stop(self) -> None:
        self.redis_server.stop()
        self.mongod.stop(grace_s=30)
