"""Each rule of the VCL, by varnishtest: a `.vtc` file beside the VCL is one rule."""

import subprocess
from pathlib import Path

import pytest

from shop import edge

pytestmark = pytest.mark.connected

RULES = sorted((edge.EDGE / "varnish").glob("*.vtc"))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.stem)
def test_the_cache_keeps_its_rule(rule: Path) -> None:
    command = ["varnishtest", "-t", "60", "-D", f"vcl={rule.parent}", str(rule)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stdout
