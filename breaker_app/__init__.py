"""The circuit breaker: one per downstream, shared by every process through Redis.

``states.py`` and ``policy.py`` are pure; ``breaker.py`` asks for a permit and reports an outcome; ``store.py`` runs the
scripts in ``lua/``; ``local.py`` takes over while Redis is away. It knows nobody else in this project.
"""
