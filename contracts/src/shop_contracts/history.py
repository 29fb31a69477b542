"""What was released, as frozen files, and what stands elsewhere to compare with. No verdict here.

`history/<owner>/<event>/v<major>/<version>.json` is the schema of one release, `history/envelope`
and `history/topology` the rest of the contract. A file that was released never changes.
"""

import io
import re
import subprocess
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from shop_contracts import build, schemas
from shop_contracts.events import BY_KEY, OWNER_OF
from shop_contracts.events.base import major_of, name_of

ENVELOPE, TOPOLOGY = "envelope", "topology"
_FROZEN = re.compile(
    r"history/(?:(?P<owner>\w+)/)?(?P<name>[\w.]+)/v(?P<major>\d+)/(?P<label>.*)\.json"
)

Version = tuple[int, int, int]
Document = dict[str, Any]


class Unreadable(Exception):
    """There is nothing to compare with; the message says why."""


class Baseline(Struct, frozen=True):
    """Documents by subject (a routing key, `envelope`, `topology`) and label, the oldest first.

    `frozen` is the content of the history files they came from, by path.
    """

    documents: dict[str, dict[str, Document]]
    frozen: dict[str, bytes]


def current() -> dict[str, Document]:
    """What the code says now, by subject."""
    return {
        **{key: schemas.schema(fact) for key, fact in BY_KEY.items()},
        ENVELOPE: schemas.envelope(),
        TOPOLOGY: build.topology_document(),
    }


def released() -> Baseline:
    """All that was ever released."""
    return _history(_directory(build.ROOT))


def baseline(against: str) -> Baseline:
    """What `history`, `git:REF`, a wheel or a checkout holds. Raises `Unreadable`."""
    if against == "history":
        return released()
    found = dict(_files(against))
    documents: dict[str, dict[str, Document]] = {}
    for path, content in found.items():
        schema = re.fullmatch(r"schemas/(?:\w+/)?(.*)\.json", path)
        subject = schema[1] if schema else TOPOLOGY if path == "topology.json" else None
        if subject:
            documents[subject] = {against: msgspec.json.decode(content)}
    if not documents:
        raise Unreadable(f"{against} holds no schemas")
    return Baseline(documents, _history(found).frozen)


def path_of(subject: str, version: Version) -> Path:
    """Where the release `version` of `subject` is frozen."""
    label = ".".join(map(str, version))
    if subject in OWNER_OF:
        folder = Path(OWNER_OF[subject]) / name_of(subject) / f"v{major_of(subject)}"
    else:
        folder = Path(subject) / f"v{version[0]}"
    return build.ROOT / "history" / folder / f"{label}.json"


def version_of(label: str) -> Version:
    """(1, 0, 2) of `1.0.2`."""
    major, minor, patch = map(int, label.split("."))
    return major, minor, patch


def _history(files: Mapping[str, bytes]) -> Baseline:
    documents: dict[str, dict[str, Document]] = defaultdict(dict)
    frozen = {path: content for path, content in files.items() if path.startswith("history/")}
    releases = [(found, frozen[path]) for path in frozen if (found := _FROZEN.fullmatch(path))]
    for found, content in sorted(releases, key=lambda release: version_of(release[0]["label"])):
        name = found["name"]
        subject = name if name in {ENVELOPE, TOPOLOGY} else f"{name}.v{found['major']}"
        documents[subject][found["label"]] = msgspec.json.decode(content)
    return Baseline(dict(documents), frozen)


def _files(against: str) -> Iterator[tuple[str, bytes]]:
    if against.startswith("git:"):
        yield from _git(against.removeprefix("git:"))
    elif (place := Path(against)).is_dir():
        data = place / "src" / "shop_contracts" / "data"
        yield from _directory(data if data.is_dir() else place).items()
    elif zipfile.is_zipfile(place):
        with zipfile.ZipFile(place) as wheel:
            for name in wheel.namelist():
                if name.startswith("shop_contracts/data/") and name.endswith(".json"):
                    yield name.removeprefix("shop_contracts/data/"), wheel.read(name)
    else:
        raise Unreadable(f"{against} is no `history`, git:REF, wheel or folder")


def _directory(data: Path) -> dict[str, bytes]:
    paths = [*data.glob("history/**/*.json"), *data.glob("schemas/**/*.json")]
    paths += data.glob("topology.json")
    return {str(path.relative_to(data)): path.read_bytes() for path in sorted(paths)}


def _git(ref: str) -> Iterator[tuple[str, bytes]]:
    command = ["git", "archive", "--format=tar", ref, "."]
    try:
        archive = subprocess.run(command, cwd=build.ROOT, capture_output=True, check=True)  # noqa: S603 -- fixed words and a ref
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"").decode().strip() or str(error)
        raise Unreadable(f"git has no {ref}: {said}") from error
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is not None and member.name.endswith(".json"):
                yield member.name.removeprefix("./"), content.read()
