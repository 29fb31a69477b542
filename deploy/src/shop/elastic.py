"""The minimal Elasticsearch distribution: download, unpack, english plugin. Starts nothing."""

import hashlib
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

from shop.account import give
from shop.profiles import ROOT

VERSION = "8.19.21"
ARTIFACT = f"org.elasticsearch.distribution.integ-test-zip:elasticsearch:{VERSION}:zip"
SHA256 = "215d5f3dbf0609a149f6218a9e47b6ae2df34ebbff3c5754e35f15a5e5393c8a"
BYTES = 106_871_955
JAVA_AT_LEAST = 17
PLUGIN = Path(__file__).resolve().parents[2] / "elasticsearch"

Progress = Callable[[int, int], None]


class DownloadFailed(Exception):
    """Maven Central did not give the distribution, or gave another file."""


class NoJava(Exception):
    """No JDK of the needed version is installed."""


def java_home() -> Path:
    """The oldest JDK of at least version 17 below /usr/lib/jvm. Raises NoJava."""
    found = {
        int(match[1]): compiler.parents[1]
        for compiler in Path("/usr/lib/jvm").glob("*/bin/javac")
        if (match := re.search(r"(?:java|jdk)-?(\d+)", compiler.parents[1].name))
    }
    fit = sorted(version for version in found if version >= JAVA_AT_LEAST)
    if not fit:
        raise NoJava(f"no JDK {JAVA_AT_LEAST} or newer below /usr/lib/jvm")
    # what came out after this Elasticsearch may not run it, so the oldest that fits is taken
    return found[fit[0]]


def distribution(progress: Progress = lambda *_: None, *, root: Path = ROOT) -> Path:
    """The unpacked distribution with the plugin in it; made once per clone.

    Raises DownloadFailed, NoJava.
    """
    dist = root / "var" / "dist"
    home = dist / f"elasticsearch-{VERSION}"
    stamp = dist / f"elasticsearch-{VERSION}.ready"
    wanted = hashlib.sha256(b"".join(f.read_bytes() for f in sorted(PLUGIN.iterdir()))).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted and home.exists():
        return home
    dist.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    archive = _download(dist, progress)
    shutil.rmtree(home, ignore_errors=True)
    with zipfile.ZipFile(archive) as file:
        file.extractall(dist)
    for program in (home / "bin").iterdir():
        program.chmod(0o755)
    _build_plugin(home)
    give(home)
    stamp.write_text(wanted)
    return home


def _download(dist: Path, progress: Progress) -> Path:
    archive = dist / f"elasticsearch-{VERSION}.zip"
    if archive.exists() and _digest(archive) == SHA256:
        return archive
    cache = dist / "maven"
    command = ["mvn", "-B", "-ntp", "-q", f"-Dmaven.repo.local={cache}", "dependency:copy"]
    command += [f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={dist}"]
    maven = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while True:
        try:
            output, _ = maven.communicate(timeout=0.5)
            break
        except subprocess.TimeoutExpired:
            parts = cache.rglob(f"elasticsearch-{VERSION}.zip*")
            progress(max((part.stat().st_size for part in parts), default=0), BYTES)
    if maven.returncode != 0 or not archive.exists():
        raise DownloadFailed(f"Maven could not fetch {ARTIFACT}:\n{output.strip()}")
    shutil.rmtree(cache, ignore_errors=True)
    if _digest(archive) != SHA256:
        archive.unlink()
        raise DownloadFailed(f"{ARTIFACT} has another checksum than the one we know")
    return archive


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _build_plugin(home: Path) -> None:
    tools = java_home() / "bin"
    target = home / "plugins" / "shop-analysis"
    classes = target / "classes"
    classes.mkdir(parents=True)
    source = PLUGIN / "EnglishAnalyzerFactory.java"
    classpath = f"{home}/lib/*"
    javac = [str(tools / "javac"), "--release", "17", "-cp", classpath]
    subprocess.run([*javac, "-d", str(classes), str(source)], check=True)
    pack = [str(tools / "jar"), "--create", "--file", str(target / "shop-analysis.jar")]
    subprocess.run([*pack, "-C", str(classes), "."], check=True)
    shutil.rmtree(classes)
    for name in ("stable-plugin-descriptor.properties", "named_components.json"):
        shutil.copy(PLUGIN / name, target / name)
