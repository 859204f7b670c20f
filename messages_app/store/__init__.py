"""Messages in Redis: the ledger and what stands beside it, and RQ's queues."""
