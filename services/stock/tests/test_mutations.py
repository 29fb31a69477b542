"""Each guard and each write of the scripts is held by a test: without it, one of TESTS turns red.

The mutants are made from the text of the scripts, so a guard that is added tomorrow is on the list.
"""

import asyncio
import importlib.util
import inspect
import itertools
import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from msgspec.structs import replace

import stock.scripts
from stock.app import connect
from stock.settings import Settings
from stock.store import StockStore

pytestmark = pytest.mark.connected

SCRIPTS = (
    *("step", "adjust", "reserve", "hold", "extend", "finish", "price", "threshold", "restock"),
    "install",
)
TESTS = (
    *("test_store.py", "test_restock.py", "test_price_plans.py", "test_rows.py"),
    "test_partitions.py",
)
MUTANT_SECONDS = 30  # a mutant may ask for the same step again and again
COMPARISONS = {
    " < ": " <= ",
    " > ": " >= ",
    " <= ": " < ",
    " >= ": " > ",
    " == ": " ~= ",
    " ~= ": " == ",
}
NOTHING = "local function nothing() end\n"
WITHIN_ONE_MS = "they differ within one millisecond of Redis's clock only"
EQUIVALENT = {
    f"{line} ->  <= becomes < ": WITHIN_ONE_MS
    for line in (
        "finish: local over = state == 'held' and tonumber(hold[2]) <= now",
        "extend: if tonumber(hold[2]) <= now then return { 'expired' } end",
    )
}
"""Mutants that no test can tell from the original, and why."""

Test = Callable[..., Awaitable[None]]


def mutants(kinds: str) -> Iterator[tuple[str, str, str]]:
    """Script, name of the mutant, its text. Kinds: g(uards), w(rites), c(omparisons)."""
    for script in SCRIPTS:
        text = (files("stock") / f"{script}.lua").read_text()
        lines = text.splitlines()
        for at, line in enumerate(lines):
            if line.lstrip().startswith("--"):
                continue
            for name, new in _mutated(line, kinds):
                changed = [*lines[:at], new, *lines[at + 1 :]]
                yield script, f"{script}: {line.strip()} -> {name}", "\n".join(changed) + "\n"


def _mutated(line: str, kinds: str) -> Iterator[tuple[str, str]]:
    if "g" in kinds and (found := re.search(r"\b(if|elseif) (.+?) then", line)):
        yield "never", line[: found.start(2)] + "false" + line[found.end(2) :]
    if "w" in kinds and (
        found := re.search(
            r"redis\.call\('(?:[HZ]?SET|HINCRBY|BITFIELD|P?EXPIRE|Z(?:ADD|REM)|X\w+|RPUSH|DEL)'",
            line,
        )
    ):
        at = found.start() + len("redis.call")
        yield "unwritten", line[: found.start()] + "nothing" + line[at:]
    if "c" in kinds:
        for sign, other in COMPARISONS.items():
            if sign in line:
                yield f"{sign}becomes{other}", line.replace(sign, other, 1)


def guards() -> list[tuple[str, Test, dict[str, Any]]]:
    """The tests of the store, each with its parameters."""
    found = []
    for name, test in [each for file in TESTS for each in vars(_module(file)).items()]:
        if not name.startswith("test_") or not inspect.iscoroutinefunction(test):
            continue
        found += [(name, test, arguments) for arguments in _parameters(test)]
    # What starts hundreds of calls comes last: most mutants never get that far.
    return sorted(found, key=lambda each: _heavy(each[1]))


def _heavy(test: Test) -> bool:
    return "gather" in inspect.getsource(test)


def _module(file: str) -> ModuleType:
    path = Path(__file__).with_name(file)
    spec = importlib.util.spec_from_file_location(f"mutated_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _parameters(test: Any) -> list[dict[str, Any]]:
    tables = []
    for mark in getattr(test, "pytestmark", []):
        if mark.name == "parametrize":
            names = [each.strip() for each in mark.args[0].split(",")]
            rows = [row if len(names) > 1 else (row,) for row in mark.args[1]]
            tables.append([dict(zip(names, row, strict=True)) for row in rows])
    return [
        {key: value for part in parts for key, value in part.items()}
        for parts in itertools.product(*tables)
    ]


GUARDS = guards()


async def first_red(url: str) -> str | None:
    """The name of a test that fails, or None."""
    settings = Settings(redis_url=url, redis_timeout=30)
    async with connect(settings) as redis:
        for number, (name, test, arguments) in enumerate([*GUARDS]):
            # on as many partitions as its module speaks of
            partitions = vars(sys.modules[test.__module__]).get("PARTITIONS", 1)
            own = replace(settings, key_prefix=f"m{number}:", partitions=partitions)
            fixtures = {
                "settings": own,
                "redis": redis,
                "store": StockStore(redis, own.key_prefix, partitions=partitions),
            }
            wanted = inspect.signature(test).parameters
            given = {key: value for key, value in fixtures.items() if key in wanted}
            try:
                async with asyncio.timeout(MUTANT_SECONDS):
                    await fixtures["store"].install.make()
                    await test(**given, **arguments)
            except (Exception, pytest.fail.Exception):  # noqa: BLE001 -- whatever it says, it noticed
                if not _heavy(test):
                    # the next mutant stands beside this one, and turns the same test red
                    GUARDS.insert(0, GUARDS.pop(number))
                return name
            finally:
                await redis.flushall()
    return None


async def survivors(kinds: str, redis_server: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The mutants that no test tells from the original; prints how many there were (`-s`)."""
    server = redis_server("--appendfsync", "no")
    folder = files("stock")
    whole = {
        each.name.removesuffix(".lua"): each.read_text()
        for each in folder.iterdir()
        if each.name.endswith(".lua")
    }

    def text_with(script: str, text: str) -> Callable[[str], str]:
        def script_text(name: str) -> str:
            parts = whole | {script: text}
            shared = parts["step"].removeprefix("#!lua\n")
            return "#!lua\n" + NOTHING + shared + parts[name].removeprefix("#!lua")

        return script_text

    monkeypatch.setattr(stock.scripts, "script_text", text_with("step", whole["step"]))
    assert await first_red(server.url) is None
    left, equal, red = [], 0, 0
    for script, name, text in mutants(kinds):
        monkeypatch.setattr(stock.scripts, "script_text", text_with(script, text))
        if await first_red(server.url) is not None:
            red += 1
        elif name in EQUIVALENT:
            equal += 1
        else:
            left.append(name)
    print(f"\n{red} killed, {equal} equivalent, {len(left)} alive: {left}")  # noqa: T201 -- the figure is what it is for
    return left


async def test_each_guard_that_is_removed_turns_a_test_red(
    redis_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [] == await survivors("g", redis_server, monkeypatch)


def test_each_mutant_that_is_called_equivalent_is_one_that_is_made() -> None:
    assert set() == EQUIVALENT.keys() - {name for _, name, _ in mutants("gwc")}


@pytest.mark.long
async def test_each_write_that_is_left_out_and_each_bound_that_moves_turns_a_test_red(
    redis_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [] == await survivors("wc", redis_server, monkeypatch)
