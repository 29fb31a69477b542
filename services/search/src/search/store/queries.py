"""A search as Elasticsearch is asked for it, and its answer as a page. Knows no client."""

from collections.abc import Sequence
from typing import Any

import msgspec

from search import domain
from search.domain import Counted, Facets, Found, Prices, Product, Query, Sort
from shop_contracts.types import Currency

FACET_VALUES = 100

ALL: dict[str, Any] = {"match_all": {}}


def body(query: Query, currency: Currency) -> dict[str, Any]:
    """The search as Elasticsearch is asked for it.

    Text says what is in question at all. The filters apply after the facets have counted, and to
    each facet all but its own. Stock and price are always asked of one and the same variant.
    """
    by_category = {"terms": {"categories.slug": query.category}} if query.category else ALL
    by_brand = {"terms": {"brand": query.brand}} if query.brand else ALL
    price = _in_price_range(query, currency)
    variant = price if query.in_stock is None else _every(price, _in_stock(query.in_stock))
    by_variant = ALL if variant is ALL else _some_variant(variant)
    everything = _every(by_category, by_brand, by_variant)
    stocked = [_some_variant(_every(price, _in_stock(value))) for value in (True, False)]
    field = f"variants.price.{currency}"
    return {
        "query": _text(query),
        "post_filter": everything,
        "aggs": {
            "categories": {
                "filter": _every(by_brand, by_variant),
                "aggs": _counts("categories.facet", "categories.slug", query.category),
            },
            "brands": {
                "filter": _every(by_category, by_variant),
                "aggs": _counts("brand", "brand", query.brand),
            },
            "in_stock": {
                "filter": _every(by_category, by_brand),
                "aggs": {"values": {"filters": {"filters": stocked}}},
            },
            "price": {
                "filter": everything,
                "aggs": {
                    "variants": {
                        "nested": {"path": "variants"},
                        "aggs": {
                            "accepted": {
                                "filter": variant,
                                "aggs": {"stats": {"stats": {"field": field}}},
                            }
                        },
                    }
                },
            },
        },
        "sort": _sort(query.sort, field, variant),
        "from_": (query.page - 1) * query.page_size,
        "size": query.page_size,
        "track_total_hits": True,
        "source_excludes": ["description", "attributes", "categories"],
    }


def found(answer: dict[str, Any], query: Query, currency: Currency) -> Found:
    hits, facets = answer["hits"], answer["aggregations"]
    stats = facets["price"]["variants"]["accepted"]["stats"]
    within, without = (part["doc_count"] for part in facets["in_stock"]["values"]["buckets"])
    return Found(
        total=hits["total"]["value"],
        page=query.page,
        page_size=query.page_size,
        currency=currency,
        hits=[
            domain.hit(msgspec.convert(found["_source"], Product), query, currency)
            for found in hits["hits"]
        ],
        facets=Facets(
            categories=_counted(facets["categories"], query.category),
            brands=_counted(facets["brands"], query.brand),
            in_stock=[
                Counted(value="true", name="In stock", count=within),
                Counted(value="false", name="Out of stock", count=without),
            ],
        ),
        price=Prices(
            min=_whole(stats["min"]),
            max=_whole(stats["max"]),
            avg=stats["avg"],
            count=stats["count"],
        ),
    )


def _text(query: Query) -> dict[str, Any]:
    """Every word must be found; a SKU, however it is written, comes before all else."""
    there = {"term": {"withdrawn": False}}
    words = query.q.strip()
    if not words:
        return {"bool": {"filter": there}}
    if query.scope == "name":
        in_name = {"match": {"name.text": {"query": words, "operator": "and"}}}
        return {"bool": {"filter": there, "must": in_name}}
    found: list[dict[str, Any]] = [
        {
            "multi_match": {
                "query": words,
                "type": "cross_fields",
                "operator": "and",
                "fields": ["name.text^3", "brand.text", "description"],
            }
        }
    ]
    if sku := domain.normalised(words):
        exact = _some_variant({"term": {"variants.sku_normalised": sku}})
        found.append({"constant_score": {"filter": exact, "boost": 1000}})
    return {"bool": {"filter": there, "should": found, "minimum_should_match": 1}}


def _sort(sort: Sort, price: str, variant: dict[str, Any]) -> list[dict[str, Any]]:
    # the lowest price either way: it is the one that the hit shows
    shown = {
        "mode": "min",
        "missing": "_last",
        "unmapped_type": "long",
        "nested": {"path": "variants", "filter": variant},
    }
    newest = {"published_at": "desc"}
    orders: dict[Sort, list[dict[str, Any]]] = {
        Sort.RELEVANCE: [{"_score": "desc"}, newest],
        Sort.PRICE_ASC: [{price: {"order": "asc", **shown}}],
        Sort.PRICE_DESC: [{price: {"order": "desc", **shown}}],
        Sort.NAME: [{"name_sort": "asc"}],
        Sort.NEWEST: [newest],
    }
    return [*orders[sort], {"product_id": "asc"}]


def _in_price_range(query: Query, currency: Currency) -> dict[str, Any]:
    bounds = {"gte": query.price_min, "lte": query.price_max}
    given = {name: bound for name, bound in bounds.items() if bound is not None}
    return {"range": {f"variants.price.{currency}": given}} if given else ALL


def _in_stock(value: bool) -> dict[str, Any]:  # noqa: FBT001 - the value of a filter
    return {"term": {"variants.in_stock": value}}


def _some_variant(condition: dict[str, Any]) -> dict[str, Any]:
    return {"nested": {"path": "variants", "query": condition}}


def _every(*conditions: dict[str, Any]) -> dict[str, Any]:
    return {"bool": {"filter": list(conditions)}}


def _counts(terms: str, value: str, chosen: Sequence[str]) -> dict[str, Any]:
    """Products per term; those of chosen values apart, as they may not be among the first."""
    counts: dict[str, Any] = {"values": {"terms": {"field": terms, "size": FACET_VALUES}}}
    if chosen:
        filters = [{"term": {value: one}} for one in chosen]
        counts["chosen"] = {"filters": {"filters": filters}}
    return counts


def _counted(facet: dict[str, Any], chosen: Sequence[str]) -> list[Counted]:
    counts = [(bucket["key"], bucket["doc_count"]) for bucket in facet["values"]["buckets"]]
    parts = facet["chosen"]["buckets"] if chosen else []
    return domain.facet_values(
        counts, {value: part["doc_count"] for value, part in zip(chosen, parts, strict=True)}
    )


def _whole(amount: float | None) -> int | None:
    return None if amount is None else int(amount)
