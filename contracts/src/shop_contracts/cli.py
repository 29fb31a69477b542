"""The `contracts` command: finds a verb in COMMANDS and runs it. Knows no verb's arguments.

A verb is a module with `arguments(parser)`, which declares them, and `run(options)`, which
returns the exit code: 0 holds, 1 does not hold, 2 cannot tell. It is imported when it is called,
so that no verb needs the libraries of another one.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the console script exits with what this returns."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="contracts", description="The events of the shop.")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name, (module, help_) in COMMANDS.items():
        verb = verbs.add_parser(name, help=help_, description=help_)
        if words[:1] == [name]:
            try:
                command = import_module(module)
            except ModuleNotFoundError as error:
                if (error.name or "").startswith("shop_contracts"):
                    raise
                need = f"`contracts {name}` needs {error.name}"
                sys.stderr.write(f"{need}: pip install 'shop-contracts[kit,amqp]'\n")
                return 2
            command.arguments(verb)
            verb.set_defaults(run=command.run)
    options = parser.parse_args(words)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # the reader, `head` perhaps, has seen enough; nothing is left to flush at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


COMMANDS: dict[str, tuple[str, str]] = {
    "lint": ("shop_contracts.lint", "hold the events to the rules of their making"),
    "build": ("shop_contracts.build", "write schemas, AsyncAPI, topology and reference"),
    "diff": ("shop_contracts.diff", "say what a change would break, and for whom"),
    "release": ("shop_contracts.release", "freeze what is released now"),
    "can-remove": ("shop_contracts.removal", "say whether a major may go"),
    "validate": ("shop_contracts.kit.verbs.validate", "check events against their contracts"),
    "sample": ("shop_contracts.kit.verbs.sample", "write valid events of a type"),
    "verify": ("shop_contracts.kit.verbs.verify", "check a consumer's or a producer's side"),
    "expect": ("shop_contracts.kit.verbs.expect", "record what a consumer reads"),
    "export": ("shop_contracts.kit.verbs.export", "write expectations in another tool's form"),
    "mock": ("shop_contracts.kit.verbs.mock", "play golden events into a broker"),
    "tap": ("shop_contracts.kit.verbs.tap", "check the live traffic of a broker"),
}
