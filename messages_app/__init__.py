"""Intake: accept, process, retry and give up messages.

Start with ``envelope.py`` (a message) and ``failures.py`` (failures of handlers), then ``store/ledger.py``: records of
messages in Redis, changed only by the scripts in ``lua/``. ``rest/intake.py`` accepts messages from two entries,
``front.py`` and ``views.py``. RQ queues contain wake-ups; ``work/engine.py`` claims and runs messages on the threads of
``worker.py``; ``work/upkeep.py`` recovers the messages of dead processes; ``services.py`` is the API for other apps.
"""
