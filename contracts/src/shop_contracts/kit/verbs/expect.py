"""`contracts expect record TEST`: what the handler under test reads, written as an expectation."""

import argparse
import subprocess
import sys
from pathlib import Path

from shop_contracts.kit.plugin import RECORD


def arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    record = actions.add_parser("record", help="probe a handler through its contract test")
    record.add_argument("tests", nargs="+", help="test files with tests marked `consumes`")
    record.add_argument("-o", "--output", type=Path, required=True)


def run(options: argparse.Namespace) -> int:
    options.output.unlink(missing_ok=True)
    # a process of its own: here, the modules that pytest wants to rewrite are imported already
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(  # noqa: S603 - the caller's own tests
        [*command, f"{RECORD}={options.output}", *options.tests], check=False
    )
    if done.returncode == 0 and options.output.exists():
        sys.stdout.write(f"wrote {options.output}\n")
        return 0
    sys.stderr.write("nothing is recorded\n")
    return done.returncode or 1
