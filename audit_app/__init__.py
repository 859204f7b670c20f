"""The audit log: one line for each change, with who, what, to what, why, how many and when."""
