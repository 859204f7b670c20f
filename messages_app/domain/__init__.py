"""Values and rules of messages. Pure: no framework, no driver; clock and random numbers are arguments."""
