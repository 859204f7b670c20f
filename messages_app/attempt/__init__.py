"""The environment of an attempt: event loops, database connections, its result."""
