"""Who polls at the moment. A lease saves work; that nothing is done twice never depends on it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError

from dlq_app.errors import StoreUnavailable
from dlq_app.mongo import Document, translated


class Leases:
    """Named leases by the server's clock."""

    def __init__(self, collection: Collection[Document]) -> None:
        self._leases = collection

    def take(self, name: str, owner: str, duration: timedelta) -> bool:
        """Take or renew the lease; False while another owner has it."""
        me = {"$literal": owner}
        mine_or_over: dict[str, Any] = {"$expr": {"$or": [{"$eq": ["$owner", me]}, {"$lte": ["$until", "$$NOW"]}]}}
        until = {"$add": ["$$NOW", int(duration.total_seconds() * 1000)]}
        try:
            with translated():
                self._leases.update_one(
                    {"_id": name, **mine_or_over}, [{"$set": {"owner": me, "until": until}}], upsert=True
                )
        except StoreUnavailable as error:
            if isinstance(error.__cause__, DuplicateKeyError):
                return False  # the upsert met the lease of somebody else
            raise
        return True

    def give_back(self, name: str, owner: str) -> None:
        """End the lease early, if it is still this owner's."""
        with translated():
            self._leases.delete_one({"_id": name, "owner": owner})
