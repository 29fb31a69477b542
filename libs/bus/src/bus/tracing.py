"""How spans point at the spans in which events were made. Knows no broker and no exporter."""

from collections.abc import Iterable

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shop_contracts.envelope import Meta

_w3c = TraceContextTextMapPropagator()


def origin(meta: Meta) -> Context:
    """The context in which the event was made; an empty one where nobody noted it."""
    parent = meta.traceparent
    return _w3c.extract({"traceparent": parent}, context=Context()) if parent else Context()


def link(span: trace.Span, metas: Iterable[Meta]) -> None:
    """One link per trace that the events come from."""
    if not span.is_recording():
        return
    made = {meta.traceparent: meta for meta in metas if meta.traceparent}
    for meta in made.values():
        context = trace.get_current_span(origin(meta)).get_span_context()
        if context.is_valid:
            span.add_link(context)
