"""The dead-letter queue: letters in MongoDB, why they are there, and the ways back.

``letter.py`` and ``states.py`` say what a letter is and which moves are legal; ``repository.py`` makes each move one
conditional update; ``services.py`` records deaths and replays letters; ``ports.py`` is the only door back to intake.
"""
