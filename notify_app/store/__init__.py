"""Notifications and marks in the database."""
