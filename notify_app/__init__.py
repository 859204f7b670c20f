"""Notifications: what users must know, sent to chat, e-mail and webhooks."""
