"""A guest moves whose share can't be written to: by the daemon's --readonly, or because the host mounted it so."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from daemons import StartDaemon

from interop.cases import MODES
from interop.mounting import daemon_command, daemon_line, ferryfs, mounted, needs_fuse

pytestmark = needs_fuse

ENTRIES = 3000


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """The directory as its owner sees it, who may write."""
    path = tmp_path / "content"
    (path / "src").mkdir(parents=True)
    (path / "src" / "held").write_text("first\nsecond\n")
    (path / "gone").write_text("gone\nstill read\n")
    (path / "many").mkdir()
    for number in range(ENTRIES):
        (path / "many" / f"{number}").touch()
    return path


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    path = tmp_path / "mountpoint"
    path.mkdir()
    return path


@contextmanager
def read_only(kind: str, content: Path) -> Iterator[tuple[Path, list[str]]]:
    """(what the daemons share, their options)."""
    if kind == "option":
        yield content, ["--readonly"]
        return
    bound = content.with_name("bound")
    bound.mkdir()
    subprocess.run(["mount", "--bind", content, bound], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", bound], check=True)
        yield bound, []
    finally:
        subprocess.run(["umount", bound], check=True)


def refuses_changes(mountpoint: Path) -> bool:
    """Each sort of change fails with EROFS."""
    changes = (
        lambda: (mountpoint / "new").touch(),
        lambda: (mountpoint / "src" / "held").open("r+").close(),
        lambda: (mountpoint / "src" / "held").unlink(),
        lambda: (mountpoint / "src").rename(mountpoint / "other"),
        lambda: (mountpoint / "src").chmod(0o700),
    )
    for change in changes:
        with pytest.raises(OSError, match="Read-only file system"):
            change()
    return True


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["option", "mount"])
def test_a_read_only_share_moves(
    kind: str, mode: str, tmp_path: Path, content: Path, mountpoint: Path, start_daemon: StartDaemon
) -> None:
    """Twice, with an open file, one whose last name the owner took away, and a half-read directory. Nothing is written
    to the directory by that.
    """
    before = sorted(os.listdir(content))
    with read_only(kind, content) as (shared, more), ExitStack() as stack:
        options = [f"--migration-mode={mode}", "--modcaps=+dac_read_search", *more]
        targets = [start_daemon(daemon_command("ferryfsd"), shared, ["--sandbox=none", *options]) for _ in range(2)]
        for target in targets:
            # Before the file system is unmounted.
            stack.callback(target.wait)
        line = daemon_line("ferryfsd", shared, *options)
        stack.enter_context(mounted(tmp_path / "socket", mountpoint, "--daemon", line))
        assert refuses_changes(mountpoint)
        with (
            (mountpoint / "src" / "held").open("rb", buffering=0) as held,
            (mountpoint / "gone").open("rb", buffering=0) as gone,
            os.scandir(mountpoint / "many") as entries,
        ):
            assert (held.read(6), gone.read(5)) == (b"first\n", b"gone\n")
            seen = [next(entries).name for _ in range(700)]
            (content / "gone").unlink()
            for target in targets:
                ferryfs("migrate", mountpoint, target.socket)
                assert refuses_changes(mountpoint)
            os.posix_fadvise(held.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert (held.read(), gone.read()) == (b"second\n", b"still read\n")
            seen += [entry.name for entry in entries]
        assert sorted(seen, key=int) == [str(number) for number in range(ENTRIES)]
        assert sorted(os.listdir(content)) == [name for name in before if name != "gone"]


def test_a_copy_that_has_no_room_for_a_nameless_file(
    tmp_path: Path, content: Path, mountpoint: Path, start_daemon: StartDaemon
) -> None:
    """Its content travelled, and there is nowhere to put it: refused with the reason, and the guest goes on here."""
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", content, copy], check=True)
    with ExitStack() as stack:
        shared, more = stack.enter_context(read_only("mount", copy))
        target = start_daemon(daemon_command("ferryfsd"), shared, ["--sandbox=none", *more])
        stack.callback(target.wait)
        line = daemon_line("ferryfsd", content)
        stack.enter_context(mounted(tmp_path / "socket", mountpoint, "--daemon", line))
        with (mountpoint / "gone").open("rb", buffering=0) as gone:
            assert gone.read(5) == b"gone\n"
            (mountpoint / "gone").unlink()
            done = ferryfs("migrate", mountpoint, target.socket, check=False)
            assert done.returncode == 1
            assert gone.read() == b"still read\n"
        assert "Read-only file system" in target.log_text()
