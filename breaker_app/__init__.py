"""The circuit breaker: one per downstream, shared by every process and host through Redis.

A call asks for a permit (``acquire``), runs, and reports its outcome (``record``). ``states.py`` and ``policy.py``
hold the rules as plain values; ``lua/`` has the state machine that all processes share, ``local.py`` the same state
machine for one process, used while Redis is unavailable. This app imports no other app: the caller decides how an
exception counts.
"""
