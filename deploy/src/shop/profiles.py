"""A profile is one stack on this machine: its name, ports and folder. Starts nothing."""

import os
import tomllib
from pathlib import Path
from typing import Self

from msgspec import Struct
from msgspec.structs import replace

ROOT = Path(__file__).resolve().parents[3]
PORTS_FILE = Path(__file__).with_name("ports.toml")


NODES = 3
APART = 100  # between the ports of two nodes of a cluster


class UnknownProfile(Exception):
    """No profile of that name is in ports.toml."""


class Profile(Struct, frozen=True):
    """One stack: `ports` by name and the folder `var` that holds all it writes.

    A clustered one is also that of each `node` of its clusters, which has ports of its own.
    """

    name: str
    ports: dict[str, int]
    var: Path
    clustered: bool = False
    node: int = 1

    def nodes(self) -> list[Self]:
        """Itself once for each node of its clusters; where it has none, just itself."""
        if not self.clustered:
            return [self]
        return [
            replace(self, node=n, ports=self.ports | _above(self.ports, APART * (n - self.node)))
            for n in range(1, NODES + 1)
        ]

    def named(self, server: str) -> str:
        """What a server is called on this node: the first one's name is that of the only one."""
        return server if self.node == 1 else f"{server}-{self.node}"

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
    return Profile(name, ports, root / "var" / name, clustered=name in table["clustered"])


def _above(ports: dict[str, int], more: int) -> dict[str, int]:
    # the nodes of a machine have one name server
    return {name: port + more for name, port in ports.items() if name != "epmd"}


def _moved(memory: Path) -> int:
    said = os.environ.get("SHOP_PORT_OFFSET")
    if said is not None:
        memory.parent.mkdir(parents=True, exist_ok=True)
        memory.write_text(said)
    return int(memory.read_text()) if memory.exists() else 0
