"""The audit log: one line per change, with actor, action, object, reason, count and time."""
