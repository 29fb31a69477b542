"""Many changes of stock or prices, a JSON line for each: what a row is and what applying it does.

A row of stock is marked in the step that changes it, so that a job which goes on after a crash
applies none twice. A row of prices says what is to stand, and may be said again. Knows no driver.
"""

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

from msgspec import Meta, Struct

from chassis import telemetry
from chassis.http.reading import decode
from chassis.problems import Invalid, MalformedJson, Problem
from feeds import jobs
from feeds.files import Source
from feeds.rows import Bad, File
from shop_contracts.types import Sku
from stock.domain import Action, Adjust, Reason, Units
from stock.prices import MAX_PRICES, MAX_UNITS, PriceEntry, duplicates
from stock.store import StockStore
from stock.store.quantities import Adjusted

STOCK = "stock-rows"
PRICES = "price-rows"


class StockRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Set the units on hand of one SKU, or change them by `delta`: one of the two."""

    sku: Sku
    set: Units | None = None
    delta: Annotated[int, Meta(ge=-MAX_UNITS, le=MAX_UNITS)] | None = None
    reason: Reason = ""

    def __post_init__(self) -> None:
        if (self.set is None) == (self.delta is None):
            raise ValueError("a row has either `set` or `delta`")

    @property
    def command(self) -> Adjust:
        if self.set is not None:
            return Adjust(stock=self.set, action=Action.SET, reason=self.reason)
        delta = self.delta or 0
        how = Action.DECREMENT if delta < 0 else Action.INCREMENT
        return Adjust(stock=abs(delta), action=how, reason=self.reason)


class PriceRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Merge these entries into the plan of one SKU, or make them all that it has."""

    sku: Sku
    how: Literal["merge", "replace"] = "merge"
    prices: Annotated[list[PriceEntry], Meta(max_length=MAX_PRICES)]

    def __post_init__(self) -> None:
        if duplicates(self.prices):
            raise ValueError("two entries are for the same buyers from the same time on")


T = TypeVar("T", StockRow, PriceRow)


class Row(Struct, Generic[T], frozen=True, kw_only=True):
    """A line that was understood."""

    source: str
    line: int
    offset: int
    content: T
    warnings: list[str] = []


async def carry(store: StockStore, job_dir: Path, kind: str) -> jobs.Job:
    """Carry a job of this kind to its end, from where it stands."""
    return await KINDS[kind](store, job_dir)


async def _carry_stock(store: StockStore, job_dir: Path) -> jobs.Job:
    async def apply(rows: Sequence[Row[StockRow]]) -> list[jobs.Outcome]:
        changed = await store.quantities.adjust_many(
            [(row.content.sku, row.content.command, None) for row in rows],
            telemetry.inject(),
            job=job_dir.name,
            rows=[row.line for row in rows],
        )
        return [_adjusted(row.content.sku, it) for row, it in zip(rows, changed, strict=True)]

    return await jobs.carry(job_dir, _rows_of(StockRow), apply, results=True)


async def _carry_prices(store: StockStore, job_dir: Path) -> jobs.Job:
    async def apply(rows: Sequence[Row[PriceRow]]) -> list[jobs.Outcome]:
        edits = [(row.content.sku, row.content.how, row.content.prices) for row in rows]
        changed = await store.prices.edit(edits, telemetry.inject())
        return [
            jobs.failed("too-many-prices", f"a plan has at most {MAX_PRICES}", {"sku": edit[0]})
            if change == "full"
            else jobs.Outcome(change, facts={"sku": edit[0]})
            for edit, change in zip(edits, changed, strict=True)
        ]

    return await jobs.carry(job_dir, _rows_of(PriceRow), apply, results=True)


def _adjusted(sku: str, result: Adjusted | Problem) -> jobs.Outcome:
    if isinstance(result, Problem):
        return jobs.failed(result.slug, result.title, {"sku": sku, **result.extensions})
    level = result.level
    return jobs.Outcome(
        result.change,
        facts={
            "sku": sku,
            "on_hand": level.on_hand,
            "available": level.available,
            "version": level.version,
        },
    )


def _rows_of(
    type_: type[T],
) -> Callable[[jobs.Job, Sequence[File]], Generator[Row[T] | Bad, None, None]]:
    def read(_: jobs.Job, files: Sequence[File]) -> Generator[Row[T] | Bad, None, None]:
        source = Source(files)
        for file in files:
            for line, text in source.lines(file):
                if text is not None and not text.strip():
                    continue
                found = _understood(text, type_)
                if isinstance(found, tuple):
                    code, reason = found
                    yield Bad(
                        source=file.name,
                        line=line,
                        code=code,
                        reason=reason,
                        offset=source.offset,
                    )
                else:
                    yield Row(source=file.name, line=line, offset=source.offset, content=found)

    return read


def _understood(text: str | None, type_: type[T]) -> T | tuple[str, str]:
    """The row, or a code and a sentence why it is none."""
    if text is None:
        return "line-too-long", "the line is longer than 1 MiB"
    try:
        return decode(text.encode("utf-8", "surrogateescape"), type_)
    except MalformedJson:
        return "bad-json", "the line is no JSON in UTF-8, or names a field twice"
    except Invalid as error:
        fault = error.errors[0]
        return "bad-row", f"{fault['pointer'] or 'the row'}: {fault['detail']}"


KINDS: Mapping[str, Callable[[StockStore, Path], Awaitable[jobs.Job]]] = {
    STOCK: _carry_stock,
    PRICES: _carry_prices,
}
