"""What the ledger's entries make of levels, prices and holds: the journal's arithmetic. No I/O.

Journal and auditor share it, so both mean the same by "what the ledger says".
"""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

COUNTERS = ("recv", "avail", "resv", "sold")
NOTES = frozenset({"hold", "price", "key", "threshold", "rebuilt"})
Fields = Mapping[str, str]


class UnknownEntry(Exception):
    """The ledger tells of something that this version cannot keep: no book may go on behind it."""


class Entry(Struct, frozen=True):
    """One entry of a ledger or an outbox; its id is a time and a number within it."""

    at_ms: int
    seq: int
    fields: Fields

    @property
    def id(self) -> str:
        """As the stream has it."""
        return f"{self.at_ms}-{self.seq}"

    @property
    def moves(self) -> bool:
        """Whether units moved; else the entry tells what some hash has become, whole."""
        return "davail" in self.fields

    @property
    def known(self) -> bool:
        """Whether this version knows what it tells of."""
        return self.moves or self.fields["op"] in NOTES


class Units(Struct, frozen=True, kw_only=True):
    """One SKU: its four counters, its version, and from how many units on it runs low."""

    recv: int = 0
    avail: int = 0
    resv: int = 0
    sold: int = 0
    ver: int = 0
    low: int | None = None

    @property
    def counters(self) -> tuple[int, int, int, int]:
        """Received, available, reserved, sold."""
        return self.recv, self.avail, self.resv, self.sold


class Plan(Struct, frozen=True, kw_only=True):
    """A plan of prices that another one has replaced."""

    sku: str
    version: int
    since_ms: int
    plan: str


class Books(Struct):
    """Rows by name, as they stand or as entries have made them; `plans` are those replaced."""

    levels: dict[str, Units] = field(default_factory=dict)
    prices: dict[str, Fields] = field(default_factory=dict)
    plans: list[Plan] = field(default_factory=list)
    holds: dict[str, Fields] = field(default_factory=dict)
    commands: dict[str, tuple[int, Fields]] = field(default_factory=dict)


def read_id(text: str) -> tuple[int, int]:
    """The time and the number of an entry's id."""
    at, _, seq = text.partition("-")
    return int(at), int(seq)


def enter(books: Books, entries: Iterable[Entry]) -> None:
    """Carry the entries into the books, in their order. Raises UnknownEntry."""
    for entry in entries:
        fields = entry.fields
        if entry.moves:
            sku = fields["sku"]
            books.levels[sku] = moved(books.levels.get(sku, Units()), fields)
            continue
        kept = {key: value for key, value in fields.items() if key not in {"op", "name"}}
        match fields["op"]:
            case "hold":
                books.holds[fields["name"]] = kept
            case "price":
                if replaced := _replaced(fields["name"], books.prices.get(fields["name"]), kept):
                    books.plans.append(replaced)
                books.prices[fields["name"]] = kept
            case "key":
                books.commands[fields["name"]] = entry.at_ms, kept
            case "threshold":
                low, sku = fields["low"], fields["name"]
                was = books.levels.get(sku, Units())
                books.levels[sku] = replace(was, low=int(low) if low else None)
            case "rebuilt":
                pass
            case op:
                raise UnknownEntry(f"{op} at {entry.id}")


def _replaced(sku: str, was: Fields | None, now: Fields) -> Plan | None:
    """The plan that stood until this one; None where it stands still, as at its boundaries."""
    if was is None or "since" not in was or _planned(was) == _planned(now):
        return None
    since, plan = _planned(was)
    return Plan(sku=sku, version=int(was["ver"]), since_ms=int(since), plan=plan)


def _planned(prices: Fields) -> tuple[str, str]:
    """Since when, and what: a plan that begins and ends nothing is what is in force."""
    return prices.get("since", ""), prices.get("plan") or prices.get("prices", "")


def moved(units: Units, fields: Fields) -> Units:
    """The units after a movement; a version that jumps is the auditor's business."""
    return Units(
        **{name: getattr(units, name) + int(fields[f"d{name}"]) for name in COUNTERS},
        ver=int(fields["ver"]),
        low=units.low,
    )


def touched(entries: Iterable[Entry]) -> set[str]:
    """The SKUs whose units the entries tell of."""
    return {
        entry.fields["sku"] if entry.moves else entry.fields["name"]
        for entry in entries
        if entry.moves or entry.fields["op"] == "threshold"
    }


def priced(entries: Iterable[Entry]) -> set[str]:
    """The SKUs whose prices the entries tell of."""
    return {e.fields["name"] for e in entries if not e.moves and e.fields["op"] == "price"}


def lines(hold: Fields) -> dict[str, int]:
    """The units that a hold keeps from others, by SKU; none once it has ended.

    Of a hold with parts in other partitions, the parts keep them.
    """
    if hold["state"] != "held":
        return {}
    places = [i for i in range(1, int(hold["n"]) + 1) if f"w{i}" not in hold]
    return {hold[f"s{i}"]: int(hold[f"q{i}"]) for i in places}


def whole_steps(entries: Sequence[Entry]) -> Sequence[Entry]:
    """The entries without those at the end that may be the first part of a step.

    A step writes its movements first, then the holds they belong to. An adjustment is whole
    by itself, unless the key of its caller follows.
    """
    for end in range(len(entries) - 1, 0, -1):
        before, after = entries[end - 1], entries[end].fields
        inside = before.moves and before.fields["op"] not in {"adjust", "repair"}
        if not inside and after["op"] != "key" and after.get("state") != "taken":
            return entries[:end]
    return entries
