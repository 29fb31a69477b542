"""The command line: each verb parses, makes one call and prints. Knows no server's details."""

import time
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from shop import setup
from shop.process import State
from shop.stack import Stack

console = Console()
app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", add_completion=False)

ProfileName = Annotated[str, typer.Option("--profile", help="Which stack: shop, test or try.")]


@app.command(epilog="Example: [bold]./shop up --mariadb[/bold]")
def up(
    profile: ProfileName = "shop",
    *,
    mariadb: Annotated[
        bool | None, typer.Option("--mariadb/--sqlite", help="Where orders live; remembered.")
    ] = None,
    servers_only: Annotated[
        bool, typer.Option("--servers-only", help="Leave our own processes out.")
    ] = False,
) -> None:
    """Start the shop and wait until everything is ready."""
    stack = Stack.open(profile, mariadb=mariadb)
    setup.up(stack, console, servers_only=servers_only)


@app.command(epilog="Example: [bold]./shop down[/bold]")
def down(profile: ProfileName = "shop") -> None:
    """Stop everything that `up` started, and nothing else."""
    with console.status("stopping"):
        Stack.open(profile).down()
    console.print("[green]stopped[/green]")


@app.command(epilog="Example: [bold]./shop status[/bold]")
def status(profile: ProfileName = "shop") -> None:
    """Show what runs, where, and for how long."""
    states = Stack.open(profile).status()
    if not states:
        console.print("nothing runs; start it with [bold]./shop up[/bold]")
        raise typer.Exit(1)
    console.print(setup.table(states))


def main() -> None:
    """Run the command line."""
    app()
