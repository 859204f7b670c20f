"""Groups in Django's admin."""
