"""Replay batches in Django's admin."""
