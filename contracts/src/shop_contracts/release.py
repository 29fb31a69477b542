"""Freezes what is released now: a file per event and version that never changes again.

A change of texts is a patch, a compatible change a minor; what breaks is refused. The code says its
minor itself, so that an event can name its schema without a file at hand.
"""

import argparse
import sys
from datetime import UTC, datetime

from shop_contracts import build, diff, lint
from shop_contracts.compatibility import substance
from shop_contracts.events import BY_KEY
from shop_contracts.events.base import major_of
from shop_contracts.history import (
    Baseline,
    Document,
    Version,
    current,
    path_of,
    released,
    version_of,
)


def versions(was: Baseline, now: dict[str, Document]) -> dict[str, Version]:
    """What is to be frozen, under which version; subjects that did not change are left out."""
    found: dict[str, Version] = {}
    for subject, document in now.items():
        releases = was.documents.get(subject)
        if not releases:
            found[subject] = (major_of(subject) if subject in BY_KEY else 1, 0, 0)
            continue
        label, last = list(releases.items())[-1]
        major, minor, patch = version_of(label)
        if substance(last) != substance(document):
            found[subject] = (major, minor + 1, 0)
        elif last != document:
            found[subject] = (major, minor, patch + 1)
    return found


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only say what would be frozen")


def run(options: argparse.Namespace) -> int:
    """Check, then freeze."""
    was, now = released(), current()
    wrong = [finding for fact in BY_KEY.values() for finding in lint.findings(fact)]
    broken = diff.breaking(diff.changes(was, now, datetime.now(UTC).date()))
    stale = build.differing()
    if wrong or broken or stale:
        sys.stderr.write(
            f"not released: {len(wrong)} findings of lint, {len(broken)} breaking changes,"
            f" {len(stale)} stale files; see `contracts lint`, `diff` and `build`\n"
        )
        return 1
    found = versions(was, now)
    for subject, version in found.items():
        path = path_of(subject, version)
        sys.stdout.write(f"{path.relative_to(build.ROOT)}\n")
        if not options.dry_run:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(build.pretty(now[subject]))
    sys.stdout.write(f"{len(found)} {'would be ' * options.dry_run}frozen\n")
    return 0
