"""Find events by reading the stores, and record them as notifications."""
