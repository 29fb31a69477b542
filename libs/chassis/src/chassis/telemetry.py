"""Traces and metrics by OpenTelemetry. Knows no service; spans cost little when nobody looks."""

from typing import Any

from opentelemetry.context import Context


def setup(service: str) -> None:
    """Install the tracer and meter of this process."""
    raise NotImplementedError


def inject() -> str:
    """The current span as a `traceparent`, or ""."""
    raise NotImplementedError


def extract(traceparent: str) -> Context:
    """A context whose parent span is the one named; a malformed text names none."""
    raise NotImplementedError


def instrument_redis() -> None:
    """Make a span for each Redis command."""
    raise NotImplementedError


def instrument_sql(*engines: Any) -> None:
    """Make a span for each statement of these engines; call it once, with all of them."""
    raise NotImplementedError
