"""The edge's configuration, filled in for one place. Knows no stack and starts nothing."""

import re
from collections.abc import Mapping
from pathlib import Path

from shop.profiles import ROOT

EDGE = ROOT / "edge"
SERVICES = ("catalog", "stock", "search", "checkout")


def varnish(folder: Path, values: Mapping[str, str]) -> Path:
    """Write the VCL files into `folder`; the one to load."""
    for vcl in (EDGE / "varnish").glob("*.vcl"):
        (folder / vcl.name).write_text(filled(vcl.read_text(), values))
    return folder / "main.vcl"


def nginx(folder: Path, values: Mapping[str, str]) -> Path:
    """Write nginx's configuration into `folder`; the file to start it with."""
    config = folder / "nginx.conf"
    config.write_text(filled((EDGE / "nginx.conf").read_text(), values))
    return config


def filled(text: str, values: Mapping[str, str]) -> str:
    """`text` with each `@NAME@` replaced. Raises KeyError for a name that has no value."""
    return re.sub(r"@([A-Z]+(?:_[A-Z]+)*)@", lambda match: values[match[1]], text)


def loopback(ports: Mapping[str, int], folder: Path) -> dict[str, str]:
    """The values of a stack whose every part listens on 127.0.0.1."""
    here = "127.0.0.1"
    values = {f"{name.upper()}_HOST": here for name in (*SERVICES, "varnish")}
    values |= {f"{name.upper()}_PORT": str(ports[name]) for name in (*SERVICES, "varnish", "edge")}
    return values | {
        "LISTEN_HOST": here,
        "SERVER_NAMES": f"localhost {here}",
        "PURGERS": f'"{here}"',
        "STATIC_DIR": str(EDGE / "static"),
        "RUN_DIR": str(folder),
        "ACCESS_LOG": str(folder / "access.log"),
    }
