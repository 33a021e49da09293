"""--migration-restore=lazy under the real FUSE client, which believes what it has cached (--cache=always)."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from daemons import StartDaemon

from interop.cases import MODES, Way, title
from interop.changes import CHANGES
from interop.holdings import HOLDINGS, read_only
from interop.mounting import PATIENCE_SECONDS, daemon_command, daemon_line, ferryfs, mounted, needs_fuse
from interop.outcomes import RIGHT, WRONG, Held
from interop.stage import SAVED, Stage

pytestmark = [*needs_fuse, pytest.mark.skipif(os.geteuid() != 0, reason="file handles can only be opened by root")]

LAZY = ["--migration-restore=lazy"]
FOLDERS, FILES = 5, 40


class Cached:
    """What the guest has looked at and closed again. Each name must give what the host has under it now, or the file
    that the guest knew by it, as long as that is in the share.
    """

    def __init__(self, guest: Path, host: Path, _: ExitStack) -> None:
        self._guest, self._host = guest, host
        for folder in range(FOLDERS):
            (host / f"folder{folder}").mkdir()
            for number in range(FILES):
                (host / f"folder{folder}" / f"file{number}").write_text(f"{host.name} {folder} {number}")
        self._known = {path.relative_to(host): path.read_bytes() for path in host.rglob("file*")}
        assert self.judge() == RIGHT

    def judge(self) -> str:
        present = {path.read_bytes() for path in self._host.rglob("file*")}
        for name, known in sorted(self._known.items()):
            try:
                seen = (self._guest / name).read_bytes()
            except FileNotFoundError:
                seen = None
            here = self._host / name
            if seen != (here.read_bytes() if here.exists() else None) and not (seen == known and known in present):
                return f"{WRONG}: {name}"
        return RIGHT

    def copied(self, folder: Path) -> None:
        """Never."""

    def arrived(self) -> None:
        """Nothing changes."""


def a_busy_host(host: Path) -> None:
    """Removes, replaces, renames and swaps, in all but one folder."""
    for folder in sorted(host.iterdir())[1:]:
        (folder / "file0").unlink()
        (folder / "file1").unlink()
        (folder / "file1").write_text("another file")
        (folder / "file2").rename(folder / "file3")
        (folder / "file4").rename(folder / "third")
        (folder / "file5").rename(folder / "file4")
        (folder / "third").rename(folder / "file5")
    shutil.rmtree(host / "folder2")
    (host / "folder3").rename(host.parents[1] / f"out of the share, {host.name}")


@pytest.mark.parametrize("mode", MODES)
def test_what_the_guest_has_cached(mode: str, tmp_path: Path, start_daemon: StartDaemon) -> None:
    """Twice: the second source has not used all that it was told of."""
    stage = Stage("ferryfsd", tmp_path, start_daemon, [*Way(mode).options, "--cache=always", *LAZY])
    kept: list[Held] = []

    def remembered(guest: Path, host: Path, stack: ExitStack) -> Held:
        kept.append(Cached(guest, host, stack))
        return kept[-1]

    with stage.set_up():
        for _ in range(2):
            assert stage.play([remembered], a_busy_host, SAVED) == [RIGHT]
            assert stage.play([remembered]) == [RIGHT]
        assert [held.judge() for held in kept] == [RIGHT] * 4


@pytest.mark.parametrize("sandbox", ["namespace", "chroot"])
@pytest.mark.parametrize("mode", MODES)
def test_in_a_sandbox(mode: str, sandbox: str, tmp_path: Path, start_daemon: StartDaemon) -> None:
    """Confined as it is by default, the destination proves all that is there, and nothing that has left the share."""
    for name in ("share", "mount"):
        (tmp_path / name).mkdir()
    options = ["--cache=always", f"--migration-mode={mode}"]
    source = daemon_line("ferryfsd", tmp_path / "share", *options)
    with ExitStack() as stack, mounted(tmp_path / "socket", tmp_path / "mount", "--daemon", source):
        held = Cached(tmp_path / "mount", tmp_path / "share", stack)
        confined = [f"--sandbox={sandbox}", "--seccomp=kill", "--modcaps=+dac_read_search", *options, *LAZY]
        target = start_daemon(daemon_command("ferryfsd"), tmp_path / "share", confined)
        ferryfs("migrate", tmp_path / "mount", target.socket)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while "proven in the background" not in (said := target.log_text()):
            assert held.judge() == RIGHT
            assert time.monotonic() < deadline, said
        assert f"{FOLDERS * (FILES + 1)} wait for their first use" in said
        assert "; 0 could not be found" in said
    assert target.wait() == 0


@pytest.mark.parametrize("mode", MODES)
def test_what_the_host_does(mode: str, tmp_path: Path, start_daemon: StartDaemon) -> None:
    """Open files are what they are with eager."""
    stage = Stage("ferryfsd", tmp_path, start_daemon, [*Way(mode).options, *LAZY])
    with stage.set_up():
        outcomes = {title(change): stage.play(change=change, moment=SAVED) for change in CHANGES}
    assert outcomes == {line: [RIGHT] for line in outcomes}


@pytest.mark.parametrize("mode", MODES)
def test_what_the_guest_holds(mode: str, tmp_path: Path, start_daemon: StartDaemon) -> None:
    stage = Stage("ferryfsd", tmp_path, start_daemon, [*Way(mode).options, *LAZY])
    writable = [scenario for scenario in HOLDINGS if scenario is not read_only]
    with stage.set_up():
        outcomes = {title(scenario): stage.play([scenario]) for scenario in writable}
    assert outcomes == {line: [RIGHT] for line in outcomes}
