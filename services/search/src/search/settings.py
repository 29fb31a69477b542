"""What the processes of search are told from outside. Nothing is read after the start."""

from typing import Literal

from msgspec import Struct

from shop_contracts.types import Currency


class Settings(Struct, frozen=True, kw_only=True):
    """`SEARCH_<FIELD>` in the environment, or the file that `SEARCH_<FIELD>_FILE` names."""

    elasticsearch_url: str
    broker_url: str = ""
    host: str = "127.0.0.1"
    port: int = 8103
    worker_port: int = 0
    index_prefix: str = ""
    currency: Currency = "EUR"
    profile: Literal["dev", "test", "prod"] = "dev"
