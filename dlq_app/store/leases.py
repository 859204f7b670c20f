"""Named leases. They save work; correctness never depends on them."""

from __future__ import annotations

from datetime import timedelta

from pymongo import ReturnDocument
from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError

from dlq_app.domain.errors import StoreUnavailable
from dlq_app.store.mongo import Document, by_key


class Leases:
    """Leases by the server's clock."""

    def __init__(self, collection: Collection[Document]) -> None:
        self._leases = collection

    def take(self, name: str, owner: str, duration: timedelta) -> bool:
        """Take or renew the lease; False while another owner holds it."""
        me = {"$literal": owner}
        free = {"$or": [{"$eq": ["$owner", me]}, {"$lte": ["$until", "$$NOW"]}]}
        until = {"$add": ["$$NOW", int(duration.total_seconds() * 1000)]}
        # A missing lease has no ``until``, which sorts before every date: it is free.
        taken = {"owner": {"$cond": [free, me, "$owner"]}, "until": {"$cond": [free, until, "$until"]}}
        try:
            with by_key():
                lease = self._leases.find_one_and_update(
                    {"_id": name}, [{"$set": taken}], upsert=True, return_document=ReturnDocument.AFTER
                )
        except StoreUnavailable as error:
            if isinstance(error.__cause__, DuplicateKeyError):
                return False  # another process created it at the same moment
            raise
        return bool(lease and lease["owner"] == owner)

    def give_back(self, name: str, owner: str) -> None:
        """End the lease early, if this owner still holds it."""
        with by_key():
            self._leases.delete_one({"_id": name, "owner": owner})
