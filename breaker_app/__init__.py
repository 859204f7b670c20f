"""The circuit breaker: one per downstream, shared by every process and host through Redis.

A call asks for a permit (``acquire``), runs, and reports how it went (``record``). The rules are plain values in
``states.py`` and ``policy.py``; ``lua/`` holds the machine that every process shares, ``local.py`` the same machine
for one process, used while the store is away. This app knows no other app: how an exception counts is told to it by
its caller.
"""
