"""The indices, each with a strict mapping of its own. Knows no rule of the catalogue."""

from typing import Any

from elasticsearch import AsyncElasticsearch, BadRequestError
from msgspec import Struct

from bus.documents import MAPPING as PENDING

KEYWORD = {"type": "keyword"}
STORED_ONLY = {"type": "keyword", "index": False, "doc_values": False}

PRODUCT: dict[str, Any] = {
    "id": KEYWORD,
    "key": KEYWORD,
    "slug": KEYWORD,
    # one field, two views: exact to sort and compare by, in words to search
    "name": {"type": "keyword", "fields": {"text": {"type": "text", "analyzer": "english"}}},
    "description": {"type": "text", "analyzer": "english"},
    "brand": KEYWORD,
    "categories": {"properties": {"slug": KEYWORD, "path": KEYWORD}},
    "within": KEYWORD,
    "attributes": {"properties": {"code": KEYWORD, "value": KEYWORD}},
    "variants": {
        "properties": {
            "sku": KEYWORD,
            "options": {"type": "flattened"},
            "barcode": KEYWORD,
            "weight_g": {"type": "long"},
            "tax_class": KEYWORD,
        }
    },
    "images": {"properties": {"url": STORED_ONLY, "alt": STORED_ONLY}},
    "version": {"type": "long"},
    "created": {"type": "date"},
    "updated": {"type": "date"},
    "withdrawn": {"type": "boolean"},
    **PENDING,
}
CATEGORY: dict[str, Any] = {
    "slug": KEYWORD,
    "name": KEYWORD,
    "path": KEYWORD,
    "position": {"type": "integer"},
    "version": {"type": "long"},
    "created": {"type": "date"},
    "updated": {"type": "date"},
    **PENDING,
}
CLAIM: dict[str, Any] = {"product": KEYWORD, "at": {"type": "date"}}


class Names(Struct, frozen=True):
    """The names of the indices under a prefix."""

    prefix: str = ""

    @property
    def products(self) -> str:
        return f"{self.prefix}catalog-products"

    @property
    def categories(self) -> str:
        return f"{self.prefix}catalog-categories"

    @property
    def skus(self) -> str:
        return f"{self.prefix}catalog-skus"

    @property
    def slugs(self) -> str:
        return f"{self.prefix}catalog-slugs"

    @property
    def with_events(self) -> str:
        """Where documents with pending events lie."""
        return f"{self.products},{self.categories}"


async def prepare(client: AsyncElasticsearch, names: Names) -> None:
    """Create the indices that are missing; give the others the fields that are new."""
    for index, properties in {
        names.products: PRODUCT,
        names.categories: CATEGORY,
        names.skus: CLAIM,
        names.slugs: CLAIM,
    }.items():
        try:
            await client.indices.create(
                index=index,
                mappings={"dynamic": "strict", "properties": properties},
                settings={"number_of_shards": 1, "auto_expand_replicas": "0-1"},
            )
        except BadRequestError as error:
            if error.error != "resource_already_exists_exception":
                raise
            await client.indices.put_mapping(index=index, properties=properties)
