"""One fact in several majors: what is sent beside it, and how an old one reads today. Pure.

A producer makes the newest major and writes `sent_as(event)` in one step: `DOWNCAST` makes the
older majors of it. Whoever replays a stream reads `newest(event)`: `UPCAST` brings old facts up.
The events of one fact have their own ids, and share subject, `entityversion` and what caused them.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from shop_contracts.envelope import TYPE_PREFIX, Event, derived_id
from shop_contracts.events import BY_KEY
from shop_contracts.events.base import Fact
from shop_contracts.events.catalog import CategoryChangedV1, CategoryChangedV2
from shop_contracts.events.catalog.category_changed_v2 import Step


def sent_as(event: Event[Fact]) -> list[Event[Fact]]:
    """The event, and the same fact in each older major that is still sent, the newest first."""
    events = [event]
    while (down := DOWNCAST.get(type(events[-1].data))) is not None:
        fact: Fact = down(events[-1].data)
        if fact.KEY not in BY_KEY:
            break
        events.append(_as(events[-1], fact, derive=True))
    return events


def newest(event: Event[Fact]) -> Event[Fact]:
    """The event as its newest major would have told it; it keeps its id."""
    while (up := UPCAST.get(type(event.data))) is not None:
        event = _as(event, up(event.data), derive=False)
    return event


def _as(event: Event[Fact], fact: Fact, *, derive: bool) -> Event[Fact]:
    meta = msgspec.structs.replace(
        event.meta,
        type=TYPE_PREFIX + fact.KEY,
        id=derived_id(event.meta.id, fact.KEY) if derive else event.meta.id,
    )
    return Event(meta=meta, data=fact)


def _category_v1(new: CategoryChangedV2) -> CategoryChangedV1:
    return CategoryChangedV1(
        slug=new.slug,
        name=new.name,
        path=[step.name for step in new.path],
        position=new.position,
    )


def _category_v2(old: CategoryChangedV1) -> CategoryChangedV2:
    steps = [Step(name=name) for name in old.path]
    if steps:
        steps[-1] = Step(slug=old.slug, name=steps[-1].name)
    return CategoryChangedV2(slug=old.slug, name=old.name, path=steps, position=old.position)


DOWNCAST: dict[type[Fact], Callable[[Any], Fact]] = {CategoryChangedV2: _category_v1}
"""From a major to the one before it."""

UPCAST: dict[type[Fact], Callable[[Any], Fact]] = {CategoryChangedV1: _category_v2}
"""From a major to the one after it."""
