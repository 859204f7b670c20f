"""Messages in Redis: the ledger, its helpers, and RQ's queues."""
