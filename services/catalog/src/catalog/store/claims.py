"""Names that one product at a time may have: SKUs and slugs. Knows no product's content.

A claim is a document whose id is the name and which names a product. It is made before the product
is written and never deleted, so a crash leaves at worst a claim whose product does not hold the
name. Such a claim may be taken over, by these laws:

1. A writer reads its product, then claims, then writes the product on condition that nobody wrote
   it since the read. What the product held when it was read needs no claiming.
2. Whoever takes a claim over first writes its former product once more, unchanged: a writer that
   claimed the name and is only slow, not dead, then fails its condition and starts again.
3. A claim that names the writer's own product already counts only once it is written again:
   whoever is about to take it over fails then.

So at no time do two products hold one name, however slow or dead a writer is.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

from elasticsearch import AsyncElasticsearch

from catalog.store.documents import TAKEN, bulk, read_one, write
from catalog.store.mappings import Names
from chassis.problems import Unavailable

ATTEMPTS = 100
PAUSE_SECONDS = 0.05
FENCED: dict[str, Any] = {"version": 0, "withdrawn": True, "has_pending": False}
"""What stands in the place of a product that was claimed for and never written."""


Kind = Literal["sku", "slug"]


class Claim(NamedTuple):
    """A product's wish for a name."""

    kind: Kind
    name: str
    product: UUID


class Claims:
    """Who may have which name. A claim that its product does not use is left alone for a while."""

    def __init__(self, client: AsyncElasticsearch, names: Names, patience: float) -> None:
        self._client = client
        self._products = names.products
        self._index: dict[Kind, str] = {"sku": names.skus, "slug": names.slugs}
        self._patience = patience

    async def owner(self, kind: Kind, name: str) -> UUID | None:
        """The product that a claim names, which need not hold the name."""
        found = await read_one(self._client, self._index[kind], name)
        return UUID(found["_source"]["product"]) if found else None

    async def take(self, claims: Sequence[Claim]) -> set[Claim]:
        """Claim the names; returns those that belong to another product."""
        if not claims:
            return set()
        statuses = await bulk(
            self._client,
            [write(self._index[it.kind], it.name, _body(it), None) for it in claims],
        )
        met = [it for it, status in zip(claims, statuses, strict=True) if status == TAKEN]
        granted = await asyncio.gather(*(self._settle(it) for it in met))
        return {it for it, mine in zip(met, granted, strict=True) if not mine}

    async def _settle(self, claim: Claim) -> bool:
        """Whether a name that was claimed before can be the product's after all."""
        for _ in range(ATTEMPTS):
            found = await read_one(self._client, self._index[claim.kind], claim.name)
            if found is None:
                raise Unavailable("A claim has vanished.")
            owner = UUID(found["_source"]["product"])
            if owner != claim.product:
                holder = await read_one(self._client, self._products, str(owner))
                if holder and _holds(holder["_source"], claim):
                    return False
                if _age(found["_source"]) < self._patience:
                    await asyncio.sleep(PAUSE_SECONDS)
                    continue
                if not await self._fence(owner, holder):
                    continue
            if await self._write(self._index[claim.kind], claim.name, _body(claim), found):
                return True
        raise Unavailable("Others want the same name just now.")

    async def _fence(self, product: UUID, stored: dict[str, Any] | None) -> bool:
        """Write the product as it is, so that a slow writer of it fails; False when it moved."""
        source = stored["_source"] if stored else {**FENCED, "id": str(product)}
        return await self._write(self._products, str(product), source, stored)

    async def _write(
        self, index: str, name: str, source: dict[str, Any], found: dict[str, Any] | None
    ) -> bool:
        statuses = await bulk(self._client, [write(index, name, source, found)])
        return statuses != [TAKEN]


def _body(claim: Claim) -> dict[str, Any]:
    return {"product": str(claim.product), "at": datetime.now(UTC).isoformat()}


def _holds(source: dict[str, Any], claim: Claim) -> bool:
    if claim.kind == "slug":  # also when withdrawn: its page says that it is gone
        return bool(source.get("slug") == claim.name)
    return not source["withdrawn"] and any(
        variant["sku"] == claim.name for variant in source.get("variants", [])
    )


def _age(source: dict[str, Any]) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(source["at"])).total_seconds()
