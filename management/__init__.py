"""What operators run: the local stack behind ``make up``, and the commands."""
