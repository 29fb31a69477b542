"""The guide to a new version of an event, followed step by step in a copy of the contracts."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "publish-a-new-event-version.md"
FENCE = re.compile(r"^```(\w+) ?([\w./]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def edited(text: str, diff: str) -> str:
    """The text after a piece of a diff without line numbers."""
    lines = diff.splitlines(keepends=True)
    old = "".join(line[1:] for line in lines if line[0] in " -")
    new = "".join(line[1:] for line in lines if line[0] in " +")
    assert 1 == text.count(old), diff
    return text.replace(old, new)


def test_each_step_of_the_guide_does_what_it_says(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "node_modules", "data")
    shutil.copytree(ROOT / "contracts", tmp_path / "contracts", symlinks=True, ignore=ignored)
    data = Path("contracts/src/shop_contracts/data")
    shutil.copytree(ROOT / data, tmp_path / data)
    env = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.defpath]),
        "PYTHONPATH": str(tmp_path / "contracts" / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    said, steps = "", 0
    for match in FENCE.finditer(GUIDE.read_text(encoding="utf-8")):
        language, what, text = match.groups()
        if language == "text":
            assert [] == [line for line in text.splitlines() if line not in said], said
        elif language == "python":
            (tmp_path / what).write_text(text, encoding="utf-8")
        elif language == "diff":
            file = tmp_path / what
            file.write_text(edited(file.read_text(encoding="utf-8"), text), encoding="utf-8")
        else:
            done = subprocess.run(
                ["sh", "-euc", text],
                cwd=tmp_path,
                env=env,
                capture_output=True,
                text=True,
                check=False,
            )
            said, steps = done.stdout, steps + 1

            assert (what == "fails") == (done.returncode != 0), (text, said, done.stderr)

    assert 10 == steps
