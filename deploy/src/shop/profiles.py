"""A profile is one stack on this machine: its name, ports and folder. Starts nothing."""

import os
import tomllib
from pathlib import Path

from msgspec import Struct

ROOT = Path(__file__).resolve().parents[3]
PORTS_FILE = Path(__file__).with_name("ports.toml")


class UnknownProfile(Exception):
    """No profile of that name is in ports.toml."""


class Profile(Struct, frozen=True):
    """One stack: `ports` by name and the folder `var` that holds all it writes."""

    name: str
    ports: dict[str, int]
    var: Path

    def folder(self, *parts: str) -> Path:
        """A folder below `var`, made when missing."""
        path = self.var.joinpath(*parts)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def url(self, port: str, *, scheme: str = "http", login: str = "", path: str = "") -> str:
        """The loopback URL of the named port, such as `http://127.0.0.1:8101/healthz`."""
        return f"{scheme}://{login + '@' if login else ''}127.0.0.1:{self.ports[port]}{path}"


def profile(name: str = "shop", *, root: Path = ROOT) -> Profile:
    """The profile of that name. Raises UnknownProfile.

    SHOP_PORT_OFFSET moves all ports, for a second clone on one machine; a clone remembers it.
    """
    table = tomllib.loads(PORTS_FILE.read_text())
    if name not in table["offsets"]:
        raise UnknownProfile(f"no profile {name!r}; there are {', '.join(table['offsets'])}")
    offset = table["offsets"][name] + _moved(root / "var" / "port-offset")
    ports = {port: number + offset for port, number in table["ports"].items()}
    return Profile(name, ports, root / "var" / name)


def _moved(memory: Path) -> int:
    said = os.environ.get("SHOP_PORT_OFFSET")
    if said is not None:
        memory.parent.mkdir(parents=True, exist_ok=True)
        memory.write_text(said)
    return int(memory.read_text()) if memory.exists() else 0
