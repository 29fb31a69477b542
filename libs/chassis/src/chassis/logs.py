"""Logs as JSON lines on stdout, ours and the libraries' alike. Knows no service."""


def setup(service: str, level: str = "INFO") -> None:
    """Send structlog and the standard library's logging to stdout, one JSON object a line."""
    raise NotImplementedError
