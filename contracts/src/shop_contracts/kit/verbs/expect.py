"""`contracts expect record TEST`: what the handler under test reads, written as an expectation."""

import argparse
import sys
from pathlib import Path

import pytest

from shop_contracts.kit.plugin import RECORD


def arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    record = actions.add_parser("record", help="probe a handler through its contract test")
    record.add_argument("tests", nargs="+", help="test files with tests marked `consumes`")
    record.add_argument("-o", "--output", type=Path, required=True)


def run(options: argparse.Namespace) -> int:
    arguments_ = [*options.tests, f"{RECORD}={options.output}", "-q", "-p", "no:cacheprovider"]
    code = pytest.main(arguments_)
    if code == pytest.ExitCode.OK and options.output.exists():
        sys.stdout.write(f"wrote {options.output}\n")
        return 0
    return int(code) or 1
