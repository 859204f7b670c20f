"""Chaos: the whole system under random faults that a seed repeats, and a judge of what must still hold.

Not part of a deployment. ``make chaos`` runs it; ``docs/reliability.md`` lists faults, invariants and results.
"""
