"""Who changed what by hand: one JSON line for each deed, in a file that is only appended to."""

import getpass
import os
from datetime import UTC, datetime

import msgspec

from shop.profiles import Profile


def note(profile: Profile, deed: str, **facts: object) -> None:
    """Write the line before the deed: nothing is done that is not in the file."""
    who = os.environ.get("SUDO_USER") or getpass.getuser()
    line = {"time": datetime.now(UTC), "who": who, "deed": deed, **facts}
    path = profile.folder("log") / "audit.log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, msgspec.json.encode(line) + b"\n")
    finally:
        os.close(descriptor)
