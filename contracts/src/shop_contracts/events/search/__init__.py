"""The events that search owns."""

from shop_contracts.events.search.search_performed_v1 import SearchPerformedV1 as SearchPerformedV1

EVENTS = (SearchPerformedV1,)
