"""Signing in: limits, second factor, and OpenID Connect."""
