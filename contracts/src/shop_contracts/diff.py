"""Says what a change of the contracts breaks, for whom, and what to do instead. Writes no file.

`contracts diff` compares the code with every release of each major, so that a name that left in one
minor cannot come back as something else in a later one.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime
from typing import Any

import msgspec
from msgspec import Struct

from shop_contracts import build, compatibility, removal
from shop_contracts.compatibility import Verdict, differences, substance
from shop_contracts.events import BY_KEY
from shop_contracts.events.base import major_of, name_of
from shop_contracts.history import (
    TOPOLOGY,
    Baseline,
    Document,
    Unreadable,
    baseline,
    current,
    version_of,
)

RULES: dict[str, tuple[Verdict, str]] = {
    **compatibility.RULES,
    "field-read": ("break", "it said that it reads the field"),
    "event-added": ("ok", "nobody reads it yet"),
    "event-ended": ("ok", "its last day is over, and nobody reads it"),
    "event-removed": ("break", "its readers wait for it"),
    "event-renamed": ("break", "the bindings of its readers bring nothing any more"),
    "minor": ("break", "`dataschema` tells readers which minor they have before them"),
    "history": ("break", "what was released stays as it was released"),
    "routing": ("break", "readers bind, key and deduplicate by it"),
    "property": ("break", "readers route and deduplicate by properties and headers"),
    "property-added": ("ok", "readers ignore a header that they do not know"),
    "exchange-removed": ("break", "queues are bound to it"),
    "exchange-type": ("break", "an exchange cannot change its type"),
    "exchange-added": ("ok", "nobody is bound to it yet"),
    "queue-arguments": ("break", "the arguments of a live queue cannot change"),
    "queue-removed": ("warn", "it stays in the broker until it is drained and deleted by hand"),
    "queue-added": ("ok", "it is declared with the next deployment"),
    "stream-removed": ("break", "replay starts from it"),
    "binding-removed": ("warn", "it stays in the broker until it is removed by hand"),
    "binding-added": ("ok", "it is made with the next deployment"),
}
"""The verdict of each rule, and why."""

EXIT_BROKEN, EXIT_UNREADABLE = 1, 2


class Change(Struct, frozen=True):
    """What changed in an event, the envelope or the topology, since when, and what to do."""

    subject: str
    since: str
    pointer: str
    rule: str
    message: str
    advice: str = ""

    @property
    def verdict(self) -> Verdict:
        return RULES[self.rule][0]


def changes(was: Baseline, now: Mapping[str, Document], today: date) -> list[Change]:
    """What differs between a baseline and the documents of now, by subject."""
    found = [*_removed(was, now, today), *_history(was)]
    for subject, document in now.items():
        releases = was.documents.get(subject, {})
        if not releases and subject in BY_KEY:
            found.append(Change(subject, "", "", "event-added", f"{subject} is new"))
        compare = _topology if subject == TOPOLOGY else _schema
        newest = [*releases][-1:]
        # what was allowed and released already is no news
        since_last = {
            (change.pointer, change.rule): change
            for label, old in releases.items()
            for change in compare(subject, label, old, document)
            if label in newest or change.verdict == "break"
        }
        found += since_last.values()
        versioned = subject in BY_KEY and releases and _is_version(next(iter(releases)))
        if versioned and not breaking(since_last.values()):
            found += _minor(subject, releases, document)
    return found


def breaking(found: Iterable[Change]) -> list[Change]:
    return [change for change in found if change.verdict == "break"]


def _schema(subject: str, since: str, old: Document, new: Document) -> Iterator[Change]:
    advice = (
        f"make {_next(subject)}" if subject in BY_KEY else "make a new envelope beside this one"
    )
    for found in differences(old, new):
        wanted = advice if found.verdict == "break" else ""
        if found.rule == "name-not-reserved":
            name = found.pointer.rpartition("/")[2]
            wanted = f'put "{name}" into RESERVED, or {advice}'
        yield Change(subject, since, found.pointer, found.rule, found.message, wanted)
        if found.rule == "field-removed":
            for reader in removal.touching(subject, found.field):
                message = f"{reader} reads `{found.field}`"
                wanted = f"ask {reader} to do without it, or {advice}"
                yield Change(subject, since, found.pointer, "field-read", message, wanted)


def _minor(subject: str, releases: Mapping[str, Document], new: Document) -> Iterator[Change]:
    label = max(releases, key=version_of)
    minor = version_of(label)[1] + (substance(releases[label]) != substance(new))
    if minor != BY_KEY[subject].MINOR:
        message = f"MINOR is {BY_KEY[subject].MINOR} and {label} is released"
        yield Change(subject, label, "/$id", "minor", message, f"set MINOR = {minor}")


def _removed(was: Baseline, now: Mapping[str, Document], today: date) -> Iterator[Change]:
    new = {key: substance(now[key]) for key in BY_KEY if key not in was.documents}
    for subject, releases in was.documents.items():
        if subject in now:
            continue
        label, last = list(releases.items())[-1]
        if twins := [key for key, what in new.items() if what == substance(last)]:
            message = f"{subject} is now {twins[0]}"
            yield Change(subject, label, "", "event-renamed", message, "publish both for a while")
            continue
        hindered = removal.hindrances(subject, last.get("x-sunset"), today)
        if hindered:
            message = f"{subject} is gone, but {'; '.join(hindered)}"
            yield Change(subject, label, "", "event-removed", message, f"bring {subject} back")
        else:
            yield Change(subject, label, "", "event-ended", f"{subject} has ended")


def _history(was: Baseline) -> Iterator[Change]:
    for path, content in was.frozen.items():
        file = build.ROOT / path
        if not file.exists() or file.read_bytes() != content:
            what = "changed" if file.exists() else "is gone"
            yield Change("history", "", f"/{path}", "history", f"{path} {what}", "put it back")


_TOPOLOGY = {"exchanges", "queues", "bindings", "events", "message"}


def _topology(subject: str, since: str, old: Document, new: Document) -> Iterator[Change]:
    def change(pointer: str, rule: str, message: str, advice: str = "") -> Change:
        return Change(subject, since, pointer, rule, message, advice)

    for keyword in sorted((old.keys() | new.keys()) - _TOPOLOGY):
        yield change(f"/{keyword}", "unknown", f"`{keyword}` is not known")
    had, has = (_named(document["exchanges"]) for document in (old, new))
    for name in had | has:
        at = f"/exchanges/{list(has).index(name)}" if name in has else "/exchanges"
        if name not in has:
            yield change(at, "exchange-removed", f"the exchange {name} is gone", "keep it")
        elif name not in had:
            yield change(at, "exchange-added", f"the exchange {name} is new")
        elif had[name]["type"] != has[name]["type"]:
            message = f"{name} was {had[name]['type']} and is {has[name]['type']}"
            yield change(f"{at}/type", "exchange-type", message, "give it a new name")
    yield from _queues(change, old, new)
    yield from _routing(change, old, new)


def _queues(change: Any, old: Document, new: Document) -> Iterator[Change]:
    had, has = (_named(document["queues"]) for document in (old, new))
    streams = {n for n, q in had.items() if q["arguments"].get("x-queue-type") == "stream"}
    for name in had | has:
        at = f"/queues/{list(has).index(name)}" if name in has else "/queues"
        if name not in has:
            rule = "stream-removed" if name in streams else "queue-removed"
            yield change(at, rule, f"the queue {name} is gone", "keep it" * (name in streams))
        elif name not in had:
            yield change(at, "queue-added", f"the queue {name} is new")
        else:
            was, is_ = had[name]["arguments"], has[name]["arguments"]
            for argument, message in _differing(was, is_, name):
                pointer = f"{at}/arguments/{argument}"
                yield change(pointer, "queue-arguments", message, "give the queue a new name")
    had_bindings, has_bindings = (
        {(b["exchange"], b["key"], b["queue"]) for b in document["bindings"]}
        for document in (old, new)
    )
    for exchange, key, queue in sorted(had_bindings - has_bindings):
        if queue in has:
            rule = "stream-removed" if queue in streams else "binding-removed"
            message = f"{queue} is no longer bound to {exchange} by {key}"
            yield change("/bindings", rule, message)
    for exchange, key, queue in sorted(has_bindings - had_bindings):
        yield change("/bindings", "binding-added", f"{queue} is bound to {exchange} by {key}")


def _routing(change: Any, old: Document, new: Document) -> Iterator[Change]:
    had, has = ({each["key"]: each for each in document["events"]} for document in (old, new))
    for key in had.keys() & has.keys():
        for fact, message in _differing(had[key], has[key], key):
            pointer = f"/events/{list(has).index(key)}/{fact}"
            yield change(pointer, "routing", message, f"make {_next(key)}")
    for kind in ("properties", "headers"):
        for name, message in _differing(old["message"][kind], new["message"][kind], "a message"):
            known = name in old["message"][kind]
            rule, advice = ("property", "add another") if known else ("property-added", "")
            yield change(f"/message/{kind}/{name}", rule, message, advice)


def _differing(
    was: Mapping[str, Any], is_: Mapping[str, Any], name: str
) -> Iterator[tuple[str, str]]:
    for each in sorted(was.keys() | is_.keys()):
        if was.get(each) != is_.get(each):
            yield each, f"{each} of {name} was {was.get(each)!r} and is {is_.get(each)!r}"


def _named(specs: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {spec["name"]: spec for spec in specs}


def _next(subject: str) -> str:
    majors = [major_of(key) for key in BY_KEY if name_of(key) == name_of(subject)]
    return f"{name_of(subject)}.v{max([*majors, major_of(subject)]) + 1}"


def _is_version(label: str) -> bool:
    return label[:1].isdigit()


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--against",
        default="history",
        metavar="WHAT",
        help="history (default), git:REF, a wheel, or a folder with contracts",
    )
    parser.add_argument("--format", choices=["text", "json"], default="text")
    parser.add_argument("--quiet", action="store_true", help="say only what breaks")


def run(options: argparse.Namespace) -> int:
    """Compare, tell, and answer 1 when something breaks."""
    try:
        was = baseline(options.against)
    except Unreadable as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_UNREADABLE
    found = changes(was, current(), datetime.now(UTC).date())
    broken = breaking(found)
    shown = broken if options.quiet else found
    if options.format == "json":
        rows = [{**msgspec.structs.asdict(each), "verdict": each.verdict} for each in shown]
        sys.stdout.write(msgspec.json.encode(rows).decode() + "\n")
    else:
        sys.stdout.write("".join(map(_told, shown)))
        sys.stdout.write(f"{len(found)} changes, {len(broken)} break\n")
    return EXIT_BROKEN if broken else 0


def _told(change: Change) -> str:
    since = f" since {change.since}" if change.since else ""
    lines = [
        f"{change.verdict:5} {change.subject}{since} {change.pointer}",
        f"      {change.message}",
    ]
    if change.verdict != "ok":
        lines.append(f"      {change.rule}: {RULES[change.rule][1]}")
    if change.advice:
        lines.append(f"      -> {change.advice}")
    return "\n".join(lines) + "\n"
