"""Measures this project beside what one would pick instead of it, on one machine, in turn.

``contestants`` says how each program is started and filled, ``measures`` what is measured, ``series`` runs everyone
once per round, ``report`` turns the recorded rows into tables of medians and ratios. ``README.md`` says how to set it
up.
"""
