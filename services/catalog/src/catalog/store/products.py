"""Products and categories in Elasticsearch: every write carries its event. Knows no HTTP.

A product's document is read, changed and written back on condition that nobody wrote it since;
the event goes into the same document, so there is never one without the other.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from aiohttp import web
from elasticsearch import AsyncElasticsearch
from uuid_utils.compat import uuid7

from bus.documents import pend
from catalog import domain
from catalog.domain import CategoryNode, Draft, Product
from catalog.store.claims import Claim, Claims
from catalog.store.documents import (
    TAKEN,
    Write,
    answering,
    bulk,
    find,
    read_many,
    read_one,
    write,
)
from catalog.store.mappings import Names, prepare
from chassis import telemetry
from chassis.problems import (
    Conflict,
    Fault,
    Gone,
    Invalid,
    NotFound,
    PreconditionFailed,
    Unavailable,
)
from feeds import jobs
from feeds.jobs import Outcome
from shop_contracts import envelope
from shop_contracts.events.base import Fact
from shop_contracts.majors import sent_as

ATTEMPTS = 20
MOST_PENDING = 100
LARGEST_EVENT = 512 * 1024
"""In bytes; the broker refuses what is over 1 MiB, and then nothing behind it leaves."""
MOST_CATEGORIES = 10_000


class DuplicateSku(Conflict):
    """Another product has the SKU."""

    slug = "duplicate-sku"
    title = "Another product has this SKU"


class SlugTaken(Conflict):
    """Another product has the slug."""

    slug = "slug-taken"
    title = "Another product has this slug"


class UrlNotAllowed(Invalid):
    """An image's address is not for the public."""

    slug = "url-not-allowed"
    title = "This address is not allowed"


class TooBig(Invalid):
    """All of the product's texts together are more than an event may carry."""

    slug = "product-too-large"
    title = "The product is too large"


class Stored(NamedTuple):
    """A product and the document it was read from; no product where only a place is held."""

    product: Product | None
    found: dict[str, Any] | None


class Plan(NamedTuple):
    """A write to come: what is wanted, for which product, on top of what."""

    id: UUID
    draft: Draft
    stored: Stored = Stored(None, None)
    key: str | None = None

    @property
    def slug(self) -> str:
        """The slug it would like: the one given, the one it has, the one of its name."""
        product = self.stored.product
        return self.draft.slug or (product.slug if product else domain.slugify(self.draft.name))

    @property
    def claims(self) -> list[Claim]:
        """The names that the product does not hold yet."""
        product = self.stored.product
        held = {*product.skus, product.slug} if product else set()
        skus = [Claim("sku", sku, self.id) for sku in self.draft.skus if sku not in held]
        return skus if product and product.slug == self.slug else [*skus, self.slug_claim]

    @property
    def slug_claim(self) -> Claim:
        return Claim("slug", self.slug, self.id)

    @property
    def second_claim(self) -> Claim:
        """The claim to a slug that nobody else will want."""
        return Claim("slug", domain.distinct_slug(self.slug, self.id), self.id)

    def product(self, slug: str) -> Product:
        """What will be written."""
        now = datetime.now(UTC)
        if self.stored.product:
            return domain.change(self.stored.product, self.draft, slug=slug, now=now)
        return domain.create(self.draft, product_id=self.id, slug=slug, now=now, key=self.key)


class CatalogStore:
    """The catalogue. `patience` is how long, in seconds, an unused claim on a name is respected."""

    def __init__(
        self, client: AsyncElasticsearch, prefix: str = "", *, patience: float = 2.0
    ) -> None:
        self.names = Names(prefix)
        self._client = client
        self._claims = Claims(client, self.names, patience)
        self._known: set[str] = set()  # categories are never deleted

    async def prepare(self) -> None:
        """Create what is missing of the indices."""
        async with answering():
            await prepare(self._client, self.names)

    async def check(self) -> None:
        """Return when the products can be read, raise when not."""
        await read_many(self._client, self.names.products, ["any"])

    async def add(self, draft: Draft) -> Product:
        """A new product. Raises DuplicateSku, SlugTaken, UrlNotAllowed."""
        _refuse_hidden(draft)
        for _ in range(ATTEMPTS):
            product = await self._claimed(Plan(uuid7(), draft))
            if await self._write(product, domain.published(product), None):
                return product
        raise Unavailable("Others want the same names just now.")

    async def get(self, ref: str) -> Product:
        """The product with this id or slug as of the last write. Raises NotFound, Gone."""
        return (await self._find(ref))[0]

    async def put(self, ref: str, draft: Draft, versions: frozenset[int] | None) -> Product:
        """Make the product what the draft says; None stands for whatever version it has.

        Raises NotFound, Gone, PreconditionFailed, DuplicateSku, SlugTaken, UrlNotAllowed.
        """
        _refuse_hidden(draft)
        for _ in range(ATTEMPTS):
            product, found = await self._find(ref)
            _expect(product, versions)
            if domain.says(product, draft):
                return product
            changed = await self._claimed(Plan(product.id, draft, Stored(product, found)))
            if await self._write(changed, domain.published(changed), found):
                return changed
        raise Unavailable("Others change the same product just now.")

    async def withdraw(self, ref: str, versions: frozenset[int] | None) -> None:
        """Take the product off sale; its SKUs are free then. Raises as `put`."""
        for _ in range(ATTEMPTS):
            product, found = await self._find(ref)
            _expect(product, versions)
            gone = domain.withdraw(product, datetime.now(UTC))
            if await self._write(gone, domain.product_withdrawn(gone), found):
                return
        raise Unavailable("Others change the same product just now.")

    async def page(
        self, page: int, size: int, category: str | None = None
    ) -> tuple[list[Product], int]:
        """The products on sale, newest first, and how many there are; up to a second behind."""
        within = [{"term": {"within": category}}] if category else []
        sources, total = await find(
            self._client,
            self.names.products,
            query={"bool": {"filter": [{"term": {"withdrawn": False}}, *within]}},
            sort=[{"created": "desc"}, {"id": "asc"}],
            from_=(page - 1) * size,
            size=size,
        )
        return [msgspec.convert(source, Product) for source in sources], total

    async def categories(self) -> list[CategoryNode]:
        """All categories; up to a second behind."""
        sources, _ = await find(
            self._client, self.names.categories, query={"match_all": {}}, size=MOST_CATEGORIES
        )
        return [msgspec.convert(source, CategoryNode) for source in sources]

    async def category(self, slug: str) -> CategoryNode:
        """One category as of the last write. Raises NotFound."""
        found = await read_one(self._client, self.names.categories, slug)
        if found is None:
            raise NotFound
        return msgspec.convert(found["_source"], CategoryNode)

    async def take(self, rows: Sequence[tuple[str, Draft]]) -> list[Outcome]:
        """Import a batch: drafts under the keys of their feed. Taking it twice changes nothing."""
        outcomes: dict[int, Outcome] = {}
        conflicts = 0
        while len(outcomes) < len(rows):
            wave = _apart([n for n in range(len(rows)) if n not in outcomes], rows)
            done = await self._take_apart({n: rows[n] for n in wave})
            conflicts += len(done) < len(wave)
            if conflicts > ATTEMPTS:
                raise Unavailable("Others change the same products just now.")
            outcomes |= done
        return [outcomes[n] for n in range(len(rows))]

    async def _take_apart(self, rows: Mapping[int, tuple[str, Draft]]) -> dict[int, Outcome]:
        """What became of rows that share no key or SKU; one that met another writer is left out."""
        plans, outcomes = await self._planned(rows)
        wishes = [it for plan in plans.values() for it in plan.claims]
        # of rows with one name the first may have the plain slug
        first = {(it.kind, it.name): it for it in reversed(wishes)}
        lost = await self._claims.take(list(first.values())) | {*wishes} - {*first.values()}
        for row, plan in list(plans.items()):
            if skus := [it.name for it in plan.claims if it.kind == "sku" and it in lost]:
                reason = f"another product has the SKU {skus[0]}"
                outcomes[row] = jobs.failed(DuplicateSku.slug, reason)
                del plans[row]
        second = {row: it.second_claim for row, it in plans.items() if it.slug_claim in lost}
        if await self._claims.take(list(second.values())):
            raise Unavailable("No slug is free for one of the products.")
        await self._keep_categories(path for it in plans.values() for path in it.draft.categories)

        writes: dict[int, Write] = {}
        for row, plan in plans.items():
            product = plan.product(second.get(row, plan.slug_claim).name)
            try:
                writes[row] = self._operation(product, domain.published(product), plan.stored.found)
            except TooBig as error:
                outcomes[row] = jobs.failed(error.slug, error.title)
        statuses = await bulk(self._client, list(writes.values()))
        for row, status in zip(writes, statuses, strict=True):
            if status != TAKEN:
                outcomes[row] = jobs.UPDATED if plans[row].stored.product else jobs.CREATED
        return outcomes

    async def _planned(
        self, rows: Mapping[int, tuple[str, Draft]]
    ) -> tuple[dict[int, Plan], dict[int, Outcome]]:
        """The writes that the rows ask for, and what became of those that ask for none."""
        plans: dict[int, Plan] = {}
        outcomes: dict[int, Outcome] = {}
        ids = [domain.imported_id(key) for key, _ in rows.values()]
        stored = await self._read(ids)
        for (row, (key, draft)), product_id, old in zip(rows.items(), ids, stored, strict=True):
            if domain.hidden_images(draft):
                outcomes[row] = jobs.failed(UrlNotAllowed.slug, UrlNotAllowed.title)
            elif old.product and domain.says(old.product, draft):
                outcomes[row] = jobs.UNCHANGED
            else:
                plans[row] = Plan(product_id, draft, old, key)
        return plans, outcomes

    async def _claimed(self, plan: Plan) -> Product:
        """The product of the plan, once its names are its own and its categories exist."""
        lost = await self._claims.take(plan.claims)
        taken: list[Fault] = [
            {"pointer": f"/variants/{n}/sku", "code": "duplicate-sku", "detail": "It is taken."}
            for n, sku in enumerate(plan.draft.skus)
            if Claim("sku", sku, plan.id) in lost
        ]
        if taken:
            raise DuplicateSku(errors=taken)
        slug = plan.slug_claim
        if slug in lost:
            slug = plan.second_claim
            if plan.draft.slug or await self._claims.take([slug]):
                raise SlugTaken
        await self._keep_categories(plan.draft.categories)
        return plan.product(slug.name)

    async def _keep_categories(self, paths: Iterable[list[str]]) -> None:
        """Create the categories that are new; a product never names one that does not exist."""
        wanted = {domain.category_slug(each): each for path in paths for each in domain.above(path)}
        new = [path for slug, path in wanted.items() if slug not in self._known]
        operations: list[Write] = []
        for path in new:
            node = domain.new_category(path, datetime.now(UTC))
            source = msgspec.to_builtins(node)
            pend(source, sent_as(_event(domain.category_changed(node), node.version)))
            operations.append(write(self.names.categories, node.slug, source, None))
        await bulk(self._client, operations)
        self._known |= wanted.keys()

    async def _find(self, ref: str) -> tuple[Product, dict[str, Any]]:
        product_id = _uuid(ref) or await self._claims.owner("slug", ref)
        if product_id is None:
            raise NotFound
        product, found = (await self._read([product_id]))[0]
        if product is None or found is None or ref not in {str(product.id), product.slug}:
            raise NotFound
        if product.withdrawn:
            raise Gone
        return product, found

    async def _read(self, ids: Sequence[UUID]) -> list[Stored]:
        found = await read_many(self._client, self.names.products, [str(each) for each in ids])
        return [
            Stored(
                msgspec.convert(doc["_source"], Product)
                if doc and doc["_source"]["version"]
                else None,
                doc,
            )
            for doc in found
        ]

    async def _write(self, product: Product, fact: Fact, found: dict[str, Any] | None) -> bool:
        """Whether product and event are written; False when somebody wrote since the read."""
        statuses = await bulk(self._client, [self._operation(product, fact, found)])
        return statuses != [TAKEN]

    def _operation(self, product: Product, fact: Fact, found: dict[str, Any] | None) -> Write:
        waiting = found["_source"].get("pending_events", []) if found else []
        if len(waiting) >= MOST_PENDING:
            raise Unavailable("Too many events of this product wait for the broker.")
        source = {**msgspec.to_builtins(product), "pending_events": waiting}
        pend(source, [_event(fact, product.version)])
        if len(source["pending_events"][-1]) > LARGEST_EVENT:
            raise TooBig(f"A product may have {LARGEST_EVENT} bytes in all.")
        return write(self.names.products, str(product.id), source, found)


def _event(fact: Fact, version: int) -> envelope.Event[Fact]:
    return envelope.new(
        fact, id=uuid7(), entityversion=version, traceparent=telemetry.inject() or None
    )


def _refuse_hidden(draft: Draft) -> None:
    if hidden := domain.hidden_images(draft):
        detail = "An image is an http(s) URL of a public host, or a path from /."
        raise UrlNotAllowed(
            errors=[
                {"pointer": f"/images/{n}/url", "code": "url-not-allowed", "detail": detail}
                for n in hidden
            ]
        )


def _expect(product: Product, versions: frozenset[int] | None) -> None:
    if versions is not None and product.version not in versions:
        raise PreconditionFailed


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text) if len(text) == len(str(UUID(int=0))) else None
    except ValueError:
        return None


def _apart(waiting: Iterable[int], rows: Sequence[tuple[str, Draft]]) -> list[int]:
    """The first of the rows that may be taken at once: no two share a key or a SKU."""
    seen: set[tuple[str, str]] = set()
    apart: list[int] = []
    for n in waiting:
        key, draft = rows[n]
        names = {("key", key), *(("sku", sku) for sku in draft.skus)}
        if not names & seen:
            apart.append(n)
        seen |= names
    return apart


STORE = web.AppKey("store", CatalogStore)
