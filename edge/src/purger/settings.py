"""What the purger is told from outside. Nothing is read after the start."""

from msgspec import Struct


class Settings(Struct, frozen=True, kw_only=True):
    """`PURGER_<FIELD>` in the environment, or the file that `PURGER_<FIELD>_FILE` names."""

    broker_url: str
    purge_url: str
    host: str = "127.0.0.1"
    worker_port: int = 0
