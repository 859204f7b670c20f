"""Dead letters in Django's admin."""
