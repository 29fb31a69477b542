"""The rules of imports hold: each is broken once, in a copy, and import-linter names it."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shop.profiles import ROOT

pytestmark = pytest.mark.slow

LINTER = Path(sys.executable).with_name("lint-imports")


def broken(folder: Path) -> set[str]:
    """The names of the rules that are broken when packages in `folder` come before ours."""
    done = subprocess.run(
        [LINTER, "--config", str(ROOT / "pyproject.toml"), "--no-cache"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert any(line.endswith((" KEPT", " BROKEN")) for line in lines), done.stdout + done.stderr
    return {line.removesuffix(" BROKEN") for line in lines if line.endswith(" BROKEN")}


@pytest.mark.parametrize(
    ("module", "planted", "rule"),
    [
        ("search.worker", "import stock.domain", "Services meet only in contracts"),
        ("bus.outbox", "import chassis.http", "Services meet only in contracts"),
        ("stock.settings", "import stock.api", "Inside a service, imports point at the domain"),
        ("stock.domain", "import asyncio", "Contracts and domains do no I/O"),
        ("catalog.api", "import elasticsearch", "Handlers never touch a driver"),
    ],
)
def test_a_forbidden_import_breaks_its_rule(
    tmp_path: Path, module: str, planted: str, rule: str
) -> None:
    package, name = module.split(".")
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    shutil.copytree(Path(found.origin).parent, tmp_path / package)
    with (tmp_path / package / f"{name}.py").open("a") as source:
        source.write(f"\n{planted}\n")

    assert rule in broken(tmp_path)


def test_no_rule_is_broken(tmp_path: Path) -> None:
    assert set() == broken(tmp_path)
