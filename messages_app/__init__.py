"""Intake: accept a message, process it, retry it, give it up.

Start with ``envelope.py`` (what a message is) and ``failures.py`` (what can go wrong), then ``ledger.py``: the record in
Redis that is the truth about every message, moved only by the scripts in ``lua/``. RQ carries wake-ups; ``worker.py`` takes
them, ``upkeep.py`` repairs what dead processes left behind, ``services.py`` is what the outside calls.
"""
