"""Values and rules of notifications. Pure: no framework, no driver; the clock is an argument."""
