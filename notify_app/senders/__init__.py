"""Send one notification: by apprise, or as a signed webhook."""
