"""The web server's worker, which keeps slow clients away from its threads."""
