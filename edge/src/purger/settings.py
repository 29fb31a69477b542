"""What the purger is told from outside. Nothing is read after the start."""

from typing import Annotated

from msgspec import Meta, Struct


class Settings(Struct, frozen=True, kw_only=True):
    """`PURGER_<FIELD>` in the environment, or the file that `PURGER_<FIELD>_FILE` names."""

    broker_url: str
    purge_url: str
    host: str = "127.0.0.1"
    worker_port: int = 0
    # As the broker was told at deploy time; 0 is one queue for each owner.
    queue_partitions: Annotated[int, Meta(ge=0, le=64)] = 0
