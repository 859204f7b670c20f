"""The built-in handler that delivers messages over HTTP."""
