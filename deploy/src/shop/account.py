"""The system account that servers run as when root starts them. Knows no server."""

import os
import pwd
import shutil
import subprocess
from pathlib import Path

USER = "shopstream"


def account() -> str | None:
    """The account to run servers as; None when we are not root and they run as ourselves.

    Elasticsearch and MariaDB refuse to run as root, and nothing here needs it.
    """
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam(USER)
    except KeyError:
        create = ["useradd", "--system", "--user-group", "--no-create-home"]
        create += ["--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", USER]
        subprocess.run(create, check=True)
    return USER


def give(path: Path) -> None:
    """Hand a tree to the account, so that it may write there."""
    user = account()
    if user is None:
        return
    shutil.chown(path, user, user)
    for folder, _, files in os.walk(path):
        for entry in (folder, *(os.path.join(folder, file) for file in files)):  # noqa: PTH118 -- thousands of entries, and os.walk gives strings
            shutil.chown(entry, user, user) if not Path(entry).is_symlink() else None


def drop(user: str | None, *reach: Path) -> list[str]:
    """The command prefix that gives up root.

    A clone below a private folder such as /root cannot be entered by another account: only
    then does the process keep the one capability that lets it read past folder modes.
    """
    if user is None:
        return []
    caps = "-all" if all(_open(path) for path in reach) else "-all,+dac_override"
    prefix = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--inh-caps", caps]
    if caps == "-all":
        return prefix
    # without that bit access(2), which Java and Erlang ask first, ignores the capability
    return [*prefix, "--ambient-caps", caps, "--securebits", "+no_setuid_fixup"]


def _open(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)
