"""Values and rules of dead letters. Pure: no framework, no driver; the clock is an argument."""
