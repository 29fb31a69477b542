"""Debian and Ubuntu packages: what is missing, and putting it there. Configures no server."""

import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from glob import glob

from shop.elastic import NoJava, java_home

PATH = os.defpath + ":/usr/sbin:/sbin"
JDKS = ["openjdk-21-jdk-headless", "openjdk-17-jdk-headless", "openjdk-25-jdk-headless"]

Progress = Callable[[float, str], None]


class CannotInstall(Exception):
    """Packages are missing and could not be installed; the message says what to run."""


def missing(*, mariadb: bool = False, browser: bool = False, bench: bool = False) -> list[str]:
    """The packages to install, by what is not there yet."""
    wanted = ["redis-server", "rabbitmq-server", "varnish", "varnish-modules", "nginx-light"]
    wanted += ["maven", "jdk"]
    wanted += ["mariadb-server"] if mariadb else []
    wanted += ["chromium", "golang-go", "nodejs", "npm"] if browser else []
    wanted += ["wrk", "nodejs", "npm"] if bench else []
    return [name for name in wanted if not PRESENT[name]()]


def install(names: list[str], progress: Progress = lambda *_: None) -> None:
    """Install packages. Raises CannotInstall."""
    if not names:
        return
    if shutil.which("apt-get") is None:
        raise CannotInstall(f"please install {', '.join(names)}: this machine has no apt-get")
    as_root = [] if os.geteuid() == 0 else ["sudo"]
    if as_root and shutil.which("sudo") is None:
        raise CannotInstall(f"as root, run: apt-get install {' '.join(names)}")
    progress(0, "reading package lists")
    _apt([*as_root, "apt-get", "update", "-qq"], progress)
    real = [_jdk() if name == "jdk" else name for name in names]
    command = [*as_root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install"]
    _apt([*command, "-y", "-qq", "--no-install-recommends", *real], progress)


def by_hand(name: str) -> str:
    """The command that installs a package without us."""
    return f"apt-get install {JDKS[1] if name == 'jdk' else name}"


def _apt(command: list[str], progress: Progress) -> None:
    reader, writer = os.pipe()
    # sudo would close the descriptor: progress is for root
    status = [] if command[0] == "sudo" else ["-o", f"APT::Status-Fd={writer}"]
    apt = subprocess.Popen(
        [*command, *status],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        pass_fds=[writer],
    )
    os.close(writer)
    threading.Thread(target=_report, args=(reader, progress), daemon=True).start()
    output, _ = apt.communicate()
    if apt.returncode != 0:
        raise CannotInstall(f"{' '.join(command)} failed:\n{output[-2000:]}")


def _report(reader: int, progress: Progress) -> None:
    with os.fdopen(reader, errors="replace") as lines:
        for line in lines:
            kind, _, rest = line.strip().partition(":")
            if kind in ("dlstatus", "pmstatus"):
                _, percent, text = rest.split(":", 2)
                progress(float(percent), text)


def _jdk() -> str:
    for name in JDKS:
        known = subprocess.run(["apt-cache", "show", name], capture_output=True, check=False)
        if known.returncode == 0:
            return name
    raise CannotInstall("no JDK 17, 21 or 25 in this machine's package lists")


def _program(name: str) -> Callable[[], bool]:
    return lambda: shutil.which(name, path=PATH) is not None


def _files(pattern: str) -> Callable[[], bool]:
    return lambda: bool(glob(pattern))  # noqa: PTH207 -- the pattern is absolute


def _java() -> bool:
    try:
        java_home()
    except NoJava:
        return False
    return True


PRESENT: dict[str, Callable[[], bool]] = {
    "redis-server": _program("redis-server"),
    "rabbitmq-server": _files("/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"),
    "varnish": _program("varnishd"),
    "varnish-modules": _files("/usr/lib/*/varnish/vmods/libvmod_xkey.so"),
    "nginx-light": _program("nginx"),
    "maven": _program("mvn"),
    "jdk": _java,
    "mariadb-server": _program("mariadbd"),
    "chromium": _program("chromium"),
    # Go comes as an archive as often as from Debian: anywhere on the PATH will do
    "golang-go": lambda: shutil.which("go") is not None,
    "wrk": _program("wrk"),
    "nodejs": _program("node"),
    "npm": _program("npm"),
}
