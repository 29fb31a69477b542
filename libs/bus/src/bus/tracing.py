"""How spans point at the spans in which events were made. Knows no broker and no exporter."""

from collections.abc import Iterable

from opentelemetry import propagate, trace
from opentelemetry.context import Context

from shop_contracts.envelope import Event
from shop_contracts.events.base import Fact


def origin(event: Event[Fact]) -> Context:
    """The context in which the event was made; an empty one where nobody noted it."""
    parent = event.meta.traceparent
    return propagate.extract({"traceparent": parent} if parent else {}, context=Context())


def link(span: trace.Span, events: Iterable[Event[Fact]]) -> None:
    """One link per trace that the events come from."""
    if not span.is_recording():
        return
    made = {event.meta.traceparent: event for event in events if event.meta.traceparent}
    for event in made.values():
        context = trace.get_current_span(origin(event)).get_span_context()
        if context.is_valid:
            span.add_link(context)
