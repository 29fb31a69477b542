"""Each rule of the VCL, by varnishtest: a `.vtc` file beside the VCL is one rule."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from shop import edge

pytestmark = pytest.mark.connected

RULES = sorted((edge.EDGE / "varnish").glob("*.vtc"))


@pytest.fixture(scope="module")
def rules() -> Iterator[Path]:
    """The rules where varnishd, which compiles as a user of its own, may read them.

    A clone may lie below a private folder, such as /root; so do pytest's own.
    """
    with TemporaryDirectory(prefix="shop-vcl-") as folder:
        Path(folder).chmod(0o755)
        yield shutil.copytree(edge.EDGE / "varnish", Path(folder) / "varnish")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.stem)
def test_the_cache_keeps_its_rule(rule: Path, rules: Path) -> None:
    command = ["varnishtest", "-t", "60", "-D", f"vcl={rules}", str(rules / rule.name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stdout
