"""The surroundings of one attempt: event loops, database connections, what it records."""
