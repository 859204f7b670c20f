"""Django's PostgreSQL backend, for a server that may not answer. Named by ``ENGINE``."""
