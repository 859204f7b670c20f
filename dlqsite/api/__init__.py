"""What all REST endpoints share: problem answers, OpenAPI, caching headers."""
