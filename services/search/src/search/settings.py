"""What the processes of search are told from outside. Nothing is read after the start."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from shop_contracts.types import Currency


class Settings(Struct, frozen=True, kw_only=True):
    """`SEARCH_<FIELD>` in the environment, or the file that `SEARCH_<FIELD>_FILE` names."""

    elasticsearch_url: str
    broker_url: str = ""
    host: str = "127.0.0.1"
    port: int = 8103
    worker_port: int = 0
    # As the broker was told at deploy time; 0 is one queue for each owner.
    queue_partitions: Annotated[int, Meta(ge=0, le=64)] = 0
    index_prefix: str = ""
    currency: Currency = "EUR"
    profile: Literal["dev", "test", "prod"] = "dev"
