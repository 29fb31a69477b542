"""The `test` verb: a private stack, every check, then pytest. Knows no test."""

import os
import subprocess
from pathlib import Path

from msgspec import Struct
from rich.console import Console

from shop import setup
from shop.profiles import ROOT
from shop.stack import Stack

TOOLS = ROOT / ".venv" / "bin"
PACKAGES = ["contracts", "libs", "services", "deploy", "edge"]
WHOLE = ROOT / "tests"
FAULTS = WHOLE / "faults"  # on stacks of their own, which may break
PARTS = [WHOLE, FAULTS, *(ROOT / part for part in PACKAGES)]
SPREAD = ["--numprocesses=logical", "--maxprocesses=4", "--dist=loadfile"]
NOTHING_CHOSEN = 5  # pytest's code for a run without a test
CHECKS = [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"], ["lint-imports"]]


class Choice(Struct, frozen=True, kw_only=True):
    """Which tests to run, and whether the servers stay up afterwards."""

    unit: bool = False
    long: bool = False
    containers: bool = False
    keep: bool = False
    expression: str = ""
    paths: list[Path] = []

    def marks(self) -> str:
        """The pytest mark expression."""
        out = {
            "connected": self.unit,
            "slow": self.unit,
            "containers": not self.containers,
            "long": not self.long,
        }
        return " and ".join(f"not {mark}" for mark, without in out.items() if without)

    def runs(self) -> list[list[str]]:
        """The calls of pytest: first the whole shop, which has its stores to itself, then the rest.

        The rest runs on all cores, a file at a time: a file's session has keys, indices and a
        virtual host of its own, or a whole stack where it breaks one.
        """
        paths = [*self.paths, *([FAULTS] * (WHOLE in self.paths))] or PARTS
        parts = [
            path for path in paths if path.is_relative_to(FAULTS) or not path.is_relative_to(WHOLE)
        ]
        whole = [path for path in paths if path not in parts]
        alone = (
            [] if self.unit else [["pytest", *map(str, whole), f"--ignore={FAULTS}"]] * bool(whole)
        )
        draws = "random" if self.long else "everyday"
        return [
            [*run, "-m", self.marks(), f"--hypothesis-profile={draws}"]
            + ["-k", self.expression] * bool(self.expression)
            for run in [*alone, *([["pytest", *SPREAD, *map(str, parts)]] * bool(parts))]
        ]


def run(choice: Choice, console: Console) -> int:
    """Check and test everything; returns the exit code of the first that failed, or 0."""
    if choice.unit:
        return _check_and_test(choice, console, {})
    stack = Stack.open("test", mariadb=True)
    stays = choice.keep or stack.up()
    try:
        setup.install(stack, console, browser=True)
        setup.up(stack, console, servers_only=True)
        file = str(stack.profile.var / "stack.json")
        return _check_and_test(choice, console, {"SHOP_STACK_FILE": file})
    finally:
        if not stays:
            stack.down()


def _check_and_test(choice: Choice, console: Console, env: dict[str, str]) -> int:
    failed: list[tuple[str, int]] = []
    for command in [*CHECKS, *choice.runs()]:
        console.print(f"[bold]{' '.join(command)}[/bold]")
        # the console's own buffer must be out before another program writes
        console.file.flush()
        done = subprocess.run(
            [TOOLS / command[0], *command[1:]], cwd=ROOT, env=os.environ | env, check=False
        )
        if done.returncode != 0 and not (done.returncode == NOTHING_CHOSEN and choice.expression):
            failed.append((" ".join(command), done.returncode))
    for line, code in failed:
        console.print(f"[red]failed ({code}):[/red] {line}")
    return failed[0][1] if failed else 0
