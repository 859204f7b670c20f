"""The overview: a snapshot of the system, its verdict, as a page and as JSON."""
