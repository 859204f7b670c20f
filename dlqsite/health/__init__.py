"""Health checks: liveness, readiness, and the state of every part."""
