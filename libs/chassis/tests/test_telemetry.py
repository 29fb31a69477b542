"""The trace is carried in the form of the W3C, as OpenTelemetry's own propagator writes it."""

import pytest
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from chassis import telemetry


@pytest.mark.parametrize("flags", [0, 1])
def test_the_current_span_is_written_as_opentelemetry_writes_it(flags: int) -> None:
    span = trace.NonRecordingSpan(
        trace.SpanContext(
            0xAF7651916CD43DD, 7, is_remote=False, trace_flags=trace.TraceFlags(flags)
        )
    )
    carrier: dict[str, str] = {}
    with trace.use_span(span):
        TraceContextTextMapPropagator().inject(carrier)

        assert carrier["traceparent"] == telemetry.inject()


def test_outside_any_span_there_is_nothing_to_write() -> None:
    with trace.use_span(trace.INVALID_SPAN):
        assert "" == telemetry.inject()


def test_a_span_that_nobody_sees_carries_its_trace_on() -> None:
    given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    tracer = telemetry._Carrier()

    with tracer.start_as_current_span("outer", telemetry.extract(given)):
        outer = telemetry.inject()
        with tracer.start_as_current_span("inner"):
            inner = telemetry.inject()

        assert outer == telemetry.inject()

    with tracer.start_as_current_span("nobody's"):
        alone = telemetry.inject()

    assert [given.split("-")[1]] * 2 == [text.split("-")[1] for text in (outer, inner)]
    assert given.split("-")[1] != alone.split("-")[1]
    assert 4 == len({text.split("-")[2] for text in (given, outer, inner, alone)})
