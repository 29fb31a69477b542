"""The settings of catalog, read once from `CATALOG_<FIELD>`. Knows no connection."""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

PREFIX = "CATALOG_"


class Settings(Struct, frozen=True, kw_only=True):
    """Everything that may differ between two installations."""

    elasticsearch_url: str
    broker_url: str = ""
    api_keys_file: str | None = None
    profile: Literal["dev", "test", "prod"] = "prod"
    host: str = "127.0.0.1"
    port: int = 8101
    relay_port: int = 0
    worker_port: int = 0
    index_prefix: Annotated[str, Meta(pattern=r"^[a-z0-9-]*\Z")] = ""
    spool_dir: Path = Path("var/spool/catalog")
