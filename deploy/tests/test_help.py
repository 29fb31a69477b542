"""What `./shop VERB --help` says."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from typer.core import TyperGroup

from shop.cli import app


def verbs(command: Any, name: str = "./shop") -> Iterator[tuple[str, Any]]:
    """Every verb that does something, by what one types for it."""
    if not isinstance(command, TyperGroup):
        yield name, command
        return
    for word, inner in command.commands.items():
        yield from verbs(inner, f"{name} {word}")


@pytest.mark.parametrize(("typed", "command"), [*verbs(typer.main.get_command(app))])
def test_the_help_of_each_verb_ends_in_an_example_of_it(typed: str, command: Any) -> None:
    assert command.help
    assert f"Example: [bold]{typed}" in (command.epilog or "")
