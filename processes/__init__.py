"""Shared by all long-lived processes: essential threads, forked children, repeated tasks, a watchdog."""
