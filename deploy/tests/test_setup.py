"""What a build log shows of long steps, where no terminal draws bars."""

from io import StringIO

from rich.console import Console
from rich.progress import TaskProgressColumn

from shop import setup


def test_without_a_terminal_a_long_step_is_told_in_few_lines() -> None:
    log = StringIO()

    with setup.bar(Console(file=log, width=200), TaskProgressColumn()) as progress:
        task = progress.add_task("packages", total=100)
        for percent in range(100):
            progress.update(task, completed=percent, description=f"unpacking {percent}")

    assert ["unpacking 0 0 %"] == log.getvalue().strip().splitlines()


def test_a_hidden_step_is_not_told() -> None:
    log = StringIO()

    with setup.bar(Console(file=log, width=200), TaskProgressColumn()) as progress:
        progress.update(progress.add_task("download", total=100), visible=False)

    assert "" == log.getvalue().strip()
