"""The read model in Elasticsearch: how it is kept, how it is asked. Knows no route, no broker.

Two indices, each written by compare-and-set alone: `offers` holds what stock says of a SKU, and
`products` what shoppers find, behind the alias `search`. An event about stock is put into its
offer first and into the products of that offer afterwards; a product puts its claims into the
offers of its SKUs first and reads them afterwards. So of a stock event and a product event that
run at the same time, at least one sees the other. Writing the product and reading its offers once
more closes the rest of the gap.
"""

from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any, Generic, TypeVar

import msgspec
from aiohttp import web
from elasticsearch import (
    ApiError,
    AsyncElasticsearch,
    BadRequestError,
    NotFoundError,
    TransportError,
)
from msgspec import Struct

from chassis.problems import Unavailable
from search import domain
from search.domain import Contents, Counted, Facets, Found, Offer, Prices, Product, Query, Sort
from shop_contracts.envelope import Event
from shop_contracts.events.base import Fact
from shop_contracts.types import Currency

RETRY_AFTER_SECONDS = "2"
FACET_VALUES = 100
PAGE = 1_000

KEYWORD = {"type": "keyword"}
WORDS = {"type": "text", "analyzer": "english"}
LONG = {"type": "long"}
BOOLEAN = {"type": "boolean"}
SHOWN = {"type": "object", "enabled": False}  # carried along, never searched

ALL: dict[str, Any] = {"match_all": {}}

# A currency is a field of its own under `price`; the limit keeps a flood of them out of the mapping
PRICE = {"type": "object", "dynamic": True}
PRICE_FIELDS = [{"minor": {"path_match": "variants.price.*", "mapping": LONG}}]

SETTINGS = {
    "number_of_shards": 1,
    "auto_expand_replicas": "0-1",
    "refresh_interval": "250ms",  # the longest that a change stays unseen
    "mapping.total_fields.ignore_dynamic_beyond_limit": True,
}

OFFERS = {
    "dynamic": "strict",
    "properties": {
        "sku": KEYWORD,
        "products": KEYWORD,
        "stock_version": LONG,
        "available": LONG,
        "price_version": LONG,
        "price": SHOWN,
        "was": SHOWN,
    },
}

PRODUCTS = {
    "dynamic": "strict",
    "dynamic_templates": PRICE_FIELDS,
    "properties": {
        "product_id": KEYWORD,
        "catalog_version": LONG,
        "withdrawn": BOOLEAN,
        "slug": KEYWORD,
        "name": {**KEYWORD, "fields": {"text": WORDS}},
        "name_sort": KEYWORD,
        "description": WORDS,
        "brand": {**KEYWORD, "fields": {"text": WORDS}},
        "categories": {"properties": {"slug": KEYWORD, "path": KEYWORD, "facet": KEYWORD}},
        "attributes": {"properties": {"code": KEYWORD, "value": KEYWORD}},
        "image": SHOWN,
        "published_at": {"type": "date"},
        "variants": {
            "type": "nested",
            "properties": {
                "sku": KEYWORD,
                "sku_normalised": KEYWORD,
                "options": SHOWN,
                "stock_version": LONG,
                "available": LONG,
                "in_stock": BOOLEAN,
                "price_version": LONG,
                "price": PRICE,
                "was": SHOWN,
            },
        },
    },
}

D = TypeVar("D", Offer, Product)
T = TypeVar("T")

Marks = tuple[int, int]
"""The numbers of the last writes to offers and to products."""

NO_MARKS = (-1, -1)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items, so many at a time."""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


class Refused(Exception):
    """Elasticsearch will not take this document, however often it is asked."""


class _Seen(Struct, Generic[D], frozen=True):
    """A document as it was read; `write` goes through only while it is still that one."""

    document: D
    seq_no: int
    primary_term: int


class SearchStore:
    """The read model of one prefix. `currency` is that of prices where a query names none."""

    def __init__(
        self, client: AsyncElasticsearch, prefix: str, currency: Currency, *, beside: str = ""
    ) -> None:
        """With `beside`, a read model of that name which nobody asks yet."""
        self._client = client
        self._prefix = prefix
        self.currency = currency
        # alias, first index, mapping; all that is asked is read and written by the alias
        self._indices: tuple[tuple[str, str, dict[str, Any]], ...] = (
            (f"{prefix}offers", f"{prefix}search-offers", OFFERS),
            (f"{prefix}search", f"{prefix}search-products", PRODUCTS),
        )
        self._offers, self._products = (
            f"{index}-{beside}" if beside else alias for alias, index, _ in self._indices
        )
        self._by_alias = not beside

    @property
    def names(self) -> tuple[str, str]:
        """What is written: offers, products."""
        return self._offers, self._products

    async def prepare(self) -> None:
        """Create what is missing; add new fields to what is there. Raises Unavailable."""
        async with _answering():
            for alias, index, mapping in self._indices:
                # a rebuild leaves the alias on an index of another name
                if standing := await self._behind(alias):
                    await self._client.indices.put_mapping(index=alias, **mapping)
                    # a rebuild that died may have left it frozen
                    await self._thaw(standing)
                    continue
                try:
                    await self._client.indices.create(
                        index=index, settings=SETTINGS, mappings=mapping, aliases={alias: {}}
                    )
                except BadRequestError as error:
                    if error.error != "resource_already_exists_exception":
                        raise

    async def beside(self, name: str) -> "SearchStore":
        """An empty read model of that name; what a broken rebuild left behind is deleted.

        Raises Unavailable.
        """
        other = SearchStore(self._client, self._prefix, self.currency, beside=name)
        async with _answering():
            for (alias, index, mapping), fresh in zip(self._indices, other.names, strict=True):
                asked = await self._behind(alias)
                for left in await self._client.indices.get(index=f"{index}-*"):
                    if left not in asked:
                        await self._client.indices.delete(index=left)
                await self._client.indices.create(index=fresh, settings=SETTINGS, mappings=mapping)
        return other

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """Nothing is written meanwhile: a worker's events wait, and searches are answered.

        What stood here stays frozen after a success, when it is asked no more: a write on its way
        must not end there. Raises Unavailable.
        """
        async with _answering():
            names = [name for alias, _, _ in self._indices for name in await self._behind(alias)]
            try:
                for name in names:
                    await self._client.indices.add_block(index=name, block="write")
                yield
            except BaseException:
                await self._thaw(names)
                raise

    async def give_way_to(self, other: "SearchStore") -> list[str]:
        """From now on the other's indices are asked and written; at no moment are none.

        Returns the indices that were asked before. Raises Unavailable.
        """
        async with _answering():
            actions: list[dict[str, Any]] = []
            before: list[str] = []
            for (alias, _, _), index in zip(self._indices, other.names, strict=True):
                await self._client.indices.refresh(index=index)
                old = await self._behind(alias)
                actions += [{"remove": {"index": name, "alias": alias}} for name in old]
                actions.append({"add": {"index": index, "alias": alias}})
                before += old
            await self._client.indices.update_aliases(actions=actions)
            return before

    async def forget(self, indices: Sequence[str]) -> None:
        """Delete indices that are asked no more. Raises Unavailable."""
        async with _answering():
            for index in indices:
                await self._client.indices.delete(index=index)

    async def contents(self, since: Marks = NO_MARKS) -> tuple[Contents, Marks]:
        """All documents that were written after the marks, and the marks of now.

        None where there is no index. Raises Unavailable.
        """
        async with _answering():
            if self._by_alias and not await self._client.indices.exists_alias(name=self._products):
                return Contents(offers={}, products={}), since
            offers, offers_mark = await self._written(self._offers, "sku", Offer, since[0])
            products, products_mark = await self._written(
                self._products, "product_id", Product, since[1]
            )
            return Contents(offers=offers, products=products), (offers_mark, products_mark)

    async def take_over(self, contents: Contents) -> None:
        """Join documents of another read model into this one. Raises Unavailable and Refused."""
        async with _answering():
            for offers in batched(contents.offers.values(), PAGE):
                await self._know(offers)
            for products in batched(contents.products.values(), PAGE):
                bodies = {product.product_id: product for product in products}
                await self._show(bodies, bodies)

    async def _behind(self, alias: str) -> list[str]:
        """The indices that the alias stands for."""
        if not await self._client.indices.exists_alias(name=alias):
            return []
        return list(await self._client.indices.get_alias(name=alias))

    async def _thaw(self, names: Sequence[str]) -> None:
        for name in names:
            try:
                await self._client.indices.put_settings(
                    index=name, settings={"index.blocks.write": None}
                )
            except NotFoundError:
                continue  # it was deleted meanwhile

    async def _written(
        self, index: str, key: str, type_: type[D], mark: int
    ) -> tuple[dict[str, D], int]:
        """The documents of writes above the mark, by id, and the mark of the last one."""
        await self._client.indices.refresh(index=index)
        found: dict[str, D] = {}
        newer = {"range": {"_seq_no": {"gt": mark}}}
        after: dict[str, Any] = {}
        while True:
            answer = await self._client.search(
                index=index,
                query=newer,
                sort=[{key: "asc"}],
                size=PAGE,
                seq_no_primary_term=True,
                **after,
            )
            hits = answer["hits"]["hits"]
            for hit in hits:
                found[hit["_id"]] = msgspec.convert(hit["_source"], type_)
                mark = max(mark, hit["_seq_no"])
            if len(hits) < PAGE:
                return found, mark
            after = {"search_after": hits[-1]["sort"]}

    async def ready(self) -> None:
        """Return when the read model can be asked. Raises Unavailable."""
        async with _answering():
            await self._client.search(index=self._products, size=0, track_total_hits=False)

    async def project(self, events: Sequence[Event[Fact]]) -> None:
        """Bring the read model to what `events` say; saying it again, or late, changes nothing.

        Raises Unavailable (worth a retry) and Refused.
        """
        async with _answering():
            offers = await self._know(
                offer for event in events for offer in domain.offers_in(event)
            )
            bodies: dict[str, Product] = {}
            for event in events:
                body = domain.product_in(event)
                if body is not None:
                    known = bodies.get(body.product_id, body)
                    bodies[body.product_id] = domain.join_products(known, body)
            touched = {product_id for offer in offers for product_id in offer.products}
            await self._show(bodies, touched | set(bodies))

    async def _know(self, said: Iterable[Offer]) -> list[Offer]:
        """Join what is said of SKUs into their offers; the offers as they are then."""
        waiting: dict[str, Offer] = {}
        for offer in said:
            known = waiting.get(offer.sku)
            waiting[offer.sku] = domain.join_offers(known, offer) if known else offer
        settled: list[Offer] = []
        while waiting:
            seen = await self._read(self._offers, waiting, Offer)
            joined = {
                sku: domain.join_offers(seen[sku].document, offer) if sku in seen else offer
                for sku, offer in waiting.items()
            }
            lost = await self._write(self._offers, joined, seen)
            settled += [offer for sku, offer in joined.items() if sku not in lost]
            waiting = {sku: waiting[sku] for sku in lost}
        return settled

    async def _show(self, bodies: Mapping[str, Product], touched: Collection[str]) -> None:
        """Bring products to the newest body and the newest offers of their variants."""
        while touched:
            seen = await self._read(self._products, touched, Product)
            products: dict[str, Product] = {}
            for product_id in touched:
                versions = [seen[product_id].document] if product_id in seen else []
                versions += [bodies[product_id]] if product_id in bodies else []
                if versions:  # else a claim whose product is yet to be written, and will look again
                    products[product_id] = domain.join_products(versions[0], versions[-1])
            # read after the products: an offer is never older than what a product shows of it
            skus = {variant.sku for product in products.values() for variant in product.variants}
            offers = {
                sku: offer.document
                for sku, offer in (await self._read(self._offers, skus, Offer)).items()
            }
            shown = {
                product_id: domain.with_offers(product, offers)
                for product_id, product in products.items()
            }
            lost = await self._write(self._products, shown, seen)
            # a new body may have passed an offer that changed and found the old body: look again
            renewed = {
                product_id
                for product_id, product in shown.items()
                if product_id not in seen
                or seen[product_id].document.catalog_version != product.catalog_version
            }
            touched = lost | renewed

    async def _read(self, index: str, ids: Collection[str], type_: type[D]) -> dict[str, _Seen[D]]:
        """The documents there are, as of now (not as of the last refresh)."""
        if not ids:
            return {}
        answer = await self._client.mget(index=index, ids=list(ids))
        seen: dict[str, _Seen[D]] = {}
        for found in answer["docs"]:
            if "error" in found:
                raise Unavailable(headers={"Retry-After": RETRY_AFTER_SECONDS})
            if found["found"]:
                document = msgspec.convert(found["_source"], type_)
                seen[found["_id"]] = _Seen(document, found["_seq_no"], found["_primary_term"])
        return seen

    async def _write(
        self, index: str, documents: Mapping[str, D], seen: Mapping[str, _Seen[D]]
    ) -> set[str]:
        """Write what differs from what was seen; the ids whose document has changed meanwhile."""
        operations: list[Any] = []
        for id_, document in documents.items():
            before = seen.get(id_)
            if before is None:
                operations += [{"create": {"_id": id_}}, _source(document)]
            elif before.document != document:
                condition = {
                    "_id": id_,
                    "if_seq_no": before.seq_no,
                    "if_primary_term": before.primary_term,
                }
                operations += [{"index": condition}, _source(document)]
        if not operations:
            return set()
        answer = await self._client.bulk(
            index=index, operations=operations, require_alias=self._by_alias
        )
        lost: set[str] = set()
        for item in answer["items"]:
            ((_, result),) = item.items()
            match result["status"]:
                case 200 | 201:
                    pass
                case 409:
                    lost.add(result["_id"])
                case 400:
                    raise Refused(result["error"]["reason"])
                case _:
                    raise Unavailable(headers={"Retry-After": RETRY_AFTER_SECONDS})
        return lost

    async def search(self, query: Query) -> Found:
        """One page of what `query` finds, with facets and prices. Raises Unavailable."""
        currency = query.currency or self.currency
        async with _answering():
            answer = await self._client.search(index=self._products, **_body(query, currency))
        return _found(answer.body, query, currency)


STORE = web.AppKey("store", SearchStore)
"""Where an application that asks the read model carries it."""


def _source(document: Offer | Product) -> Any:
    return msgspec.to_builtins(document)


@asynccontextmanager
async def _answering() -> AsyncIterator[None]:
    """An Elasticsearch that does not answer, or lacks our indices, is worth a retry."""
    unavailable = Unavailable(
        "The search index does not answer.", headers={"Retry-After": RETRY_AFTER_SECONDS}
    )
    try:
        yield
    except TransportError as error:
        raise unavailable from error
    except ApiError as error:
        if error.status_code in {404, 429} or error.status_code >= 500:  # noqa: PLR2004 - the server's own faults
            raise unavailable from error
        raise


def _body(query: Query, currency: Currency) -> dict[str, Any]:
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


def _found(answer: dict[str, Any], query: Query, currency: Currency) -> Found:
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


def _counted(facet: dict[str, Any], chosen: Sequence[str]) -> list[Counted]:
    counts = [(bucket["key"], bucket["doc_count"]) for bucket in facet["values"]["buckets"]]
    parts = facet["chosen"]["buckets"] if chosen else []
    return domain.facet_values(
        counts, {value: part["doc_count"] for value, part in zip(chosen, parts, strict=True)}
    )


def _whole(amount: float | None) -> int | None:
    return None if amount is None else int(amount)
