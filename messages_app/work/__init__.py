"""The message worker: claim, run, flush, renew, and the upkeep beside it."""
