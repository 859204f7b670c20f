"""Intake: accept a message, process it, retry it, give it up.

Start with ``envelope.py`` (what a message is) and ``failures.py`` (what can go wrong), then ``ledger.py``: the record
in Redis that is the truth about every message, moved only by the scripts in ``lua/``. ``intake.py`` lets messages in
behind two doors (``front.py``, ``views.py``). RQ carries wake-ups; ``engine.py`` claims, runs and flushes on threads
inside ``worker.py``; ``upkeep.py`` repairs what dead processes left behind; ``services.py`` answers the others.
"""
