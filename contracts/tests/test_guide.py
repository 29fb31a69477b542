"""The guide works from an empty folder, offline, with the wheel and nothing else of ours."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "subscribe-to-shopstream.md"
FENCE = re.compile(r"^```(\w+) ?([\w.]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def uv() -> str:
    here = os.pathsep.join([str(ROOT / "var" / "venv" / "bin"), os.environ.get("PATH", "")])
    found = shutil.which("uv", path=here)
    if found is None:
        pytest.fail("no uv: `./shop test` brings it")
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [uv(), "build", "--wheel", "--offline", "--quiet", "-o", str(folder)]
    subprocess.run([*command, str(ROOT / "contracts")], check=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that holds the wheel, with what its extra `kit` names."""
    venv = tmp_path_factory.mktemp("outside") / ".venv"
    env = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(venv), "UV_PYTHON_DOWNLOADS": "never"}
    subprocess.run([uv(), "venv", "--quiet", "--python", sys.executable, str(venv)], check=True)
    locked = ["sync", "--frozen", "--package", "shop-contracts", "--extra", "kit", "--no-dev"]
    subprocess.run(
        [uv(), *locked, "--no-install-workspace", "--quiet"], cwd=ROOT, env=env, check=True
    )
    install = ["pip", "install", "--offline", "--no-deps", "--quiet", "--python", str(venv)]
    subprocess.run([uv(), *install, str(wheel)], check=True)
    return venv / "bin"


def steps() -> Iterator[tuple[str, str, str]]:
    for match in FENCE.finditer(GUIDE.read_text(encoding="utf-8")):
        yield match[1], match[2], match[3]


def shell(text: str, folder: Path, programs: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(programs), os.defpath])
    # no route to anywhere, should something try
    env = {"PATH": path, "HOME": str(folder), "HTTPS_PROXY": "http://127.0.0.1:9"}
    return subprocess.run(
        ["sh", "-euc", text], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


def test_the_wheel_holds_all_that_is_needed(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()

    for part in (
        "schemas/stock/stock.changed.v1.json",
        "examples/stock.changed.v1/full.json",
        "asyncapi/shop.json",
        "topology.json",
        "reference.html",
    ):
        assert f"shop_contracts/data/{part}" in names


def test_the_wheel_brings_nothing_but_msgspec_and_pytest(bare: Path) -> None:
    listed = subprocess.run(
        [uv(), "pip", "list", "--python", str(bare / "python"), "--format", "freeze"],
        capture_output=True,
        text=True,
        check=True,
    )
    names = {line.partition("==")[0].partition(" @")[0] for line in listed.stdout.splitlines()}

    assert {"shop-contracts", "msgspec", "pytest"} <= names
    assert names <= {
        *("shop-contracts", "msgspec", "pytest", "iniconfig", "packaging", "pluggy", "pygments"),
    }


def test_each_step_of_the_guide_does_what_it_says(bare: Path, tmp_path: Path) -> None:
    done = []
    for language, kind, text in steps():
        if language == "python":
            (tmp_path / kind).write_text(text, encoding="utf-8")
            continue
        if kind in {"install", "program", "broker"}:  # done above; needs a program, or a broker
            continue
        result = shell(text, tmp_path, bare)
        done.append(text)
        if kind == "fails":
            assert 0 != result.returncode
            assert 1 == result.stdout.count("FAILED")
            assert "stock.changed.v1-reordered" in result.stdout
        else:
            assert 0 == result.returncode, (text, result.stdout, result.stderr)

    assert 5 == len(done)
    assert '"available"' in (tmp_path / "ext.acme.json").read_text()


def test_the_guides_test_is_short() -> None:
    (test,) = [text for language, kind, text in steps() if kind == "test_worker.py"]

    assert len(test.splitlines()) < 40


def test_the_example_passes_and_with_a_bug_fails_on_it(bare: Path, tmp_path: Path) -> None:
    example = ROOT / "examples" / "python-consumer"
    for name in ("stock_worker.py", "test_stock_worker.py"):
        shutil.copy(example / name, tmp_path)
    assert len((tmp_path / "test_stock_worker.py").read_text().splitlines()) < 40
    assert 0 == shell("python -m pytest -q", tmp_path, bare).returncode

    worker = tmp_path / "stock_worker.py"
    worker.write_text(worker.read_text().replace("WHERE version < ?3", "WHERE true"))
    broken = shell("python -m pytest -q", tmp_path, bare)

    assert 1 == broken.stdout.count("FAILED")
    assert "stock.changed.v1-reordered" in broken.stdout


def test_a_verb_that_needs_more_says_what_to_install(bare: Path, tmp_path: Path) -> None:
    said = shell("contracts tap --amqp amqp://nowhere", tmp_path, bare)

    assert 2 == said.returncode
    assert "pip install 'shop-contracts[kit,amqp]'" in said.stderr
