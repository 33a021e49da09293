"""Ranges of subordinate ids: an ordinary user's daemon, newuidmap(1) and newgidmap(1), a share with several owners."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import StartDaemon

from .mounting import daemon_command, mounted, needs_fuse

pytestmark = [
    *needs_fuse,
    pytest.mark.skipif(shutil.which("newuidmap") is None, reason="there is no newuidmap: apt-get install uidmap"),
]

USER = 4242
FIRST = 300000
COUNT = 65536
MAPS = [f"--{kind}-map={part}" for kind in ("uid", "gid") for part in (f":0:{USER}:1:", f":1:{FIRST}:{COUNT}:")]
# A user who exists in this mount namespace only; the capability is for a Python that lies in root's home. $1 is the
# folder with the files.
AS_USER = f"""
for file in passwd group subuid subgid; do
    test -e "/etc/$file" || touch "/etc/$file"
    mount --bind "$1/$file" "/etc/$file"
done
shift
exec setpriv --reuid {USER} --regid {USER} --clear-groups \\
    --inh-caps +dac_read_search --ambient-caps +dac_read_search "$@"
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where an ordinary user gets in."""
    with tempfile.TemporaryDirectory(prefix="ferryfs-") as name:
        path = Path(name)
        path.chmod(0o755)
        for below in ("share", "mnt", "run"):
            (path / below).mkdir()
            os.chown(path / below, USER, USER)
        (path / "passwd").write_text(f"root:x:0:0::/root:/bin/sh\nferry:x:{USER}:{USER}::/:/bin/sh\n")
        (path / "group").write_text(f"root:x:0:\nferry:x:{USER}:\n")
        for kind in ("subuid", "subgid"):
            (path / kind).write_text(f"ferry:{FIRST}:{COUNT}\n")
        yield path


def command(folder: Path) -> list[str]:
    namespace = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", AS_USER, "sh", str(folder)]
    return [*namespace, *daemon_command("ferryfsd")]


def test_guests_users_are_the_range(start_daemon: StartDaemon, folder: Path) -> None:
    daemon = start_daemon(command(folder), folder / "share", MAPS, socket=folder / "run" / "s")
    with mounted(daemon.socket, folder / "mnt"):
        (folder / "mnt" / "root").touch()
        (folder / "mnt" / "other").touch()
        os.chown(folder / "mnt" / "other", 1000, 50)
        os.chmod(folder / "mnt", 0o777)
        subprocess.run(
            ["setpriv", "--reuid", "7", "--regid", "8", "--clear-groups", "touch", folder / "mnt" / "own"], check=True
        )
        assert (folder / "mnt" / "other").stat().st_uid == 1000
        with pytest.raises(OSError, match="Invalid argument"):
            os.chown(folder / "mnt" / "root", COUNT + 1, -1)
    owners = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in (folder / "share").iterdir()}
    assert owners == {
        "root": (USER, USER),
        "other": (FIRST + 999, FIRST + 49),
        "own": (FIRST + 6, FIRST + 7),
    }


@pytest.mark.parametrize("kind", ["subuid", "subgid"])
def test_without_a_range_the_file_is_named(folder: Path, kind: str) -> None:
    (folder / kind).write_text("")
    words = [f"--shared-dir={folder / 'share'}", f"--socket-path={folder / 'run' / 's'}", *MAPS]
    done = subprocess.run([*command(folder), *words], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if "ERROR" in line]
    option = f"--{kind.removeprefix('sub')}-map"
    assert f"{option} :0:{USER}:1: :1:{FIRST}:{COUNT}: is refused" in line
    assert f"add a line USER:FIRST:COUNT to /etc/{kind}" in line
