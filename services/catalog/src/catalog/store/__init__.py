"""The catalogue in Elasticsearch. Knows no HTTP and no broker.

`products` is the store itself, `claims` how a name gets one owner, `mappings` the indices. What a
caller may be told is a Problem:

    DuplicateSku 409   choose another SKU, or change the product that has it
    SlugTaken 409      choose another slug
    UrlNotAllowed 422  send an address that the public can reach
"""

from catalog.store.products import (
    STORE,
    CatalogStore,
    DuplicateSku,
    SlugTaken,
    UrlNotAllowed,
)

__all__ = ["STORE", "CatalogStore", "DuplicateSku", "SlugTaken", "UrlNotAllowed"]
