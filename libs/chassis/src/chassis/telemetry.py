"""Traces and metrics by OpenTelemetry. Knows no service; spans cost little when nobody looks."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import getrandbits
from typing import Any

import msgspec
import prometheus_client
from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACE_FILE = "SHOP_TRACE_FILE"

METRICS_TYPE = prometheus_client.CONTENT_TYPE_LATEST

_propagator = TraceContextTextMapPropagator()


def setup(service: str) -> None:
    """Install the tracer and the meter of this process; call it once, before the first span.

    Spans go by OTLP over HTTP to $OTEL_EXPORTER_OTLP_ENDPOINT, and as JSON lines into
    $SHOP_TRACE_FILE. With neither set they only carry the trace on. Which traces are recorded,
    OpenTelemetry's own OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG say.
    """
    # The stable names of attributes and metrics, not those of before 2024.
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http,database")
    resource = Resource.create({SERVICE_NAME: service})
    if recording():
        tracer = TracerProvider(resource=resource)
        if os.environ.get(ENDPOINT):
            tracer.add_span_processor(BatchSpanProcessor(_otlp_exporter()))
        if path := os.environ.get(TRACE_FILE):
            tracer.add_span_processor(SimpleSpanProcessor(_FileExporter(Path(path))))
        trace.set_tracer_provider(tracer)
    else:
        trace.set_tracer_provider(_Carrier())
    metrics.set_meter_provider(
        MeterProvider(
            [PrometheusMetricReader()],
            resource=resource,
            exemplar_filter=AlwaysOffExemplarFilter(),
        )
    )


def recording() -> bool:
    """Whether anybody gets to see the spans of this process."""
    return bool(os.environ.get(ENDPOINT) or os.environ.get(TRACE_FILE))


def inject() -> str:
    """The current span as a `traceparent`, or "" outside any span."""
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return ""
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"


def extract(traceparent: str) -> Context:
    """A context whose parent span is the one named; a malformed or empty text names none."""
    return _propagator.extract({"traceparent": traceparent}, context=Context())


def exposition() -> bytes:
    """All metrics of this process in Prometheus' text format."""
    return prometheus_client.generate_latest()


def instrument_redis(client: Any) -> None:
    """Make a span for each command and pipeline of this client, if anybody gets to see it."""
    if recording():
        # A service without Redis does not install its client.
        from opentelemetry.instrumentation.redis import RedisInstrumentor  # noqa: PLC0415

        RedisInstrumentor.instrument_client(client)


def instrument_sql(*engines: Any) -> None:
    """Make a span for each statement of these engines; call it once, with all of them."""
    if recording():
        # A service without SQL does not install SQLAlchemy.
        from opentelemetry.instrumentation.sqlalchemy import (  # noqa: PLC0415
            SQLAlchemyInstrumentor,
        )

        # It is declared for SQLAlchemy below 2.1 and works on 2.1 when told to.
        SQLAlchemyInstrumentor().instrument(
            engines=[getattr(engine, "sync_engine", engine) for engine in engines],
            skip_dep_check=True,
        )


def _otlp_exporter() -> SpanExporter:
    # A tenth of a second of imports that only a process with a collector needs.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )

    return OTLPSpanExporter()


class _Carrier(trace.TracerProvider, trace.Tracer):
    """Makes spans that nobody gets to see: each has an id of its own in its parent's trace.

    OpenTelemetry's own provider asks a sampler and gathers attributes before it does the same.
    """

    def get_tracer(self, *_: Any, **__: Any) -> trace.Tracer:
        return self

    def start_span(
        self,
        name: str,  # noqa: ARG002 -- as the interface has it, and the rest
        context: Context | None = None,
        *_: Any,
        **__: Any,
    ) -> trace.Span:
        return _Unseen(trace.get_current_span(context))

    @contextmanager
    def start_as_current_span(  # type: ignore[override]
        self, name: str, context: Context | None = None, *_: Any, **__: Any
    ) -> Iterator[trace.Span]:
        with trace.use_span(self.start_span(name, context)) as span:
            yield span


class _Unseen(trace.NonRecordingSpan):
    """A span of a `_Carrier`. Most are never asked for their ids: they are made when one is."""

    def __init__(self, parent: trace.Span) -> None:
        self._parent = parent
        self._own: trace.SpanContext | None = None

    def get_span_context(self) -> trace.SpanContext:
        if self._own is None:
            parent = self._parent.get_span_context()
            known = parent.is_valid
            self._own = trace.SpanContext(
                trace_id=parent.trace_id if known else getrandbits(128) or 1,
                span_id=getrandbits(64) or 1,
                is_remote=False,
                trace_state=parent.trace_state if known else None,
            )
        return self._own

    def __repr__(self) -> str:
        return f"_Unseen({self._own!r})"


class _FileExporter(SpanExporter):
    """Finished spans as JSON lines; several processes may share the file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # One unbuffered write in append mode keeps the lines of several processes whole.
        self._file = path.open("ab", buffering=0)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._file.write(b"".join(msgspec.json.encode(_line(span)) + b"\n" for span in spans))
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self._file.close()


def _line(span: ReadableSpan) -> dict[str, object]:
    context = span.get_span_context()
    return {
        "service": span.resource.attributes.get(SERVICE_NAME),
        "name": span.name,
        "kind": span.kind.name.lower(),
        "trace_id": trace.format_trace_id(context.trace_id) if context else "",
        "span_id": trace.format_span_id(context.span_id) if context else "",
        "parent_id": trace.format_span_id(span.parent.span_id) if span.parent else "",
        "links": [
            {
                "trace_id": trace.format_trace_id(link.context.trace_id),
                "span_id": trace.format_span_id(link.context.span_id),
            }
            for link in span.links
        ],
        "start_ns": span.start_time,
        "end_ns": span.end_time,
        "status": span.status.status_code.name.lower(),
        "attributes": dict(span.attributes or {}),
    }
