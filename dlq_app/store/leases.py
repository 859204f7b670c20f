"""Who polls at the moment. A lease saves work; that nothing is done twice never depends on it."""

from __future__ import annotations

from datetime import timedelta

from pymongo import ReturnDocument
from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError

from dlq_app.domain.errors import StoreUnavailable
from dlq_app.store.mongo import Document, by_key


class Leases:
    """Named leases by the server's clock."""

    def __init__(self, collection: Collection[Document]) -> None:
        self._leases = collection

    def take(self, name: str, owner: str, duration: timedelta) -> bool:
        """Take or renew the lease; False while another owner has it."""
        me = {"$literal": owner}
        free = {"$or": [{"$eq": ["$owner", me]}, {"$lte": ["$until", "$$NOW"]}]}
        until = {"$add": ["$$NOW", int(duration.total_seconds() * 1000)]}
        # A lease that does not exist yet has no end, which sorts before every instant: it is free.
        taken = {"owner": {"$cond": [free, me, "$owner"]}, "until": {"$cond": [free, until, "$until"]}}
        try:
            with by_key():
                lease = self._leases.find_one_and_update(
                    {"_id": name}, [{"$set": taken}], upsert=True, return_document=ReturnDocument.AFTER
                )
        except StoreUnavailable as error:
            if isinstance(error.__cause__, DuplicateKeyError):
                return False  # somebody else made it at the same instant
            raise
        return bool(lease and lease["owner"] == owner)

    def give_back(self, name: str, owner: str) -> None:
        """End the lease early, if it is still this owner's."""
        with by_key():
            self._leases.delete_one({"_id": name, "owner": owner})
