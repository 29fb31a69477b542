"""What an operator can set for the simulator. Knows no default secret."""

from pathlib import Path
from typing import Literal

from msgspec import Struct

PREFIX = "PAYMENTS_"


class Settings(Struct, frozen=True, kw_only=True):
    """Read from `PAYMENTS_<FIELD>`."""

    key: str
    """What callers send as their secret key."""
    webhook_secret: str
    webhook_url: str = ""
    """Where what happened is told; empty is nowhere."""
    journal: Path | None = None
    """Where the books are kept, line by line; without it they end with the process."""
    host: str = "127.0.0.1"
    simulator_port: int = 8401
    profile: Literal["dev", "test", "prod"] = "prod"

    def __post_init__(self) -> None:
        if self.profile == "prod":
            raise ValueError("PAYMENTS_PROFILE: the simulator takes no money")
