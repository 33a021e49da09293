"""The table of scenarios through `ferryfs mount` and `ferryfs migrate`: ferryfsd never loses anything in it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from daemons import StartDaemon, daemon_command

from ferryfs.errors import PeerError
from ferryfs.frontend.control import ask
from interop.mounting import needs_fuse
from interop.scenarios import (
    CHANGES,
    HOLDINGS,
    MODES,
    MOMENTS,
    REFUSED,
    RIGHT,
    OpenFile,
    Stage,
    holdings,
    host_changes,
    title,
)

pytestmark = needs_fuse


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("mode", MODES)
def test_what_the_host_does(mode: str, moment: str, tmp_path: Path, start_daemon: StartDaemon) -> None:
    """The guest goes on with the very files that it had open, also with one whose last name goes between save and load:
    the source has it open as long as it runs, and the destination opens it by its handle.
    """
    outcomes = host_changes("ferryfsd", mode, moment, tmp_path, start_daemon)
    assert outcomes == {title(change): RIGHT for change in CHANGES}


@pytest.mark.parametrize("mode", MODES)
def test_what_the_guest_holds(mode: str, tmp_path: Path, start_daemon: StartDaemon) -> None:
    assert holdings("ferryfsd", mode, tmp_path, start_daemon) == {title(scenario): RIGHT for scenario in HOLDINGS}


def open_file(guest: Path, host: Path, stack: ExitStack) -> OpenFile:
    return OpenFile(guest, host, "file", stack)


@pytest.fixture
def loop_mount(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Mounts an image; taken away after the test. The whole suite has a mount namespace of its own."""
    with ExitStack() as stack:

        def mount(image: Path) -> Path:
            folder = image.with_suffix(".mounted")
            folder.mkdir()
            subprocess.run(["mount", "-o", "loop", image, folder], check=True)
            stack.callback(subprocess.run, ["umount", folder], check=True)
            return folder

        yield mount


def fresh_image(path: Path) -> Path:
    """An ext4 whose file handles, of the root too, are those of every other one made like this."""
    with path.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-E", "root_owner=0:0", path], check=True)
    return path


needs_ext4 = pytest.mark.skipif(
    shutil.which("mkfs.ext4") is None or not os.path.exists("/dev/loop-control"),
    reason="no mkfs.ext4 or no loop devices: apt install e2fsprogs, modprobe loop",
)


@needs_ext4
@pytest.mark.parametrize("mode", MODES)
def test_two_fresh_images(
    mode: str, tmp_path: Path, loop_mount: Callable[[Path], Path], start_daemon: StartDaemon
) -> None:
    """Equal file handles lead to other files there. That it is another directory must be seen, and said."""
    stage = Stage("ferryfsd", mode, tmp_path, start_daemon)
    stage.share, other = (loop_mount(fresh_image(tmp_path / f"{name}.img")) for name in ("one", "two"))
    (other / "line1").mkdir()
    (other / "line1" / "file").write_text("another one of another size\n")
    with stage.set_up():
        assert stage.play(open_file, elsewhere=other) == REFUSED


@needs_ext4
@pytest.mark.parametrize("diverged", [False, True], ids=["equal", "diverged"])
@pytest.mark.parametrize("mode", MODES)
def test_a_block_clone(
    mode: str, diverged: bool, tmp_path: Path, loop_mount: Callable[[Path], Path], start_daemon: StartDaemon
) -> None:
    """All is equal in it but what was done since. It counts as a copy, where size and type are what is compared: a file
    that was replaced by one of another size is refused.
    """
    image = fresh_image(tmp_path / "one.img")
    stage = Stage("ferryfsd", mode, tmp_path, start_daemon)
    stage.share = loop_mount(image)
    content = b"the same in both\n"
    (stage.share / "file").write_bytes(content)
    os.sync()
    clone = tmp_path / "two.img"
    shutil.copyfile(image, clone)
    other = loop_mount(clone)
    if diverged:
        (other / "file").unlink()
        (other / "file").write_bytes(b"X" * 99)
    with stage.set_up(), (stage.mountpoint / "file").open("rb") as held:
        target = start_daemon(daemon_command("ferryfsd"), other, ["--sandbox=none", *stage.options])
        request = {"destination": str(target.socket), "collect_s": 0.1}
        if diverged:
            with pytest.raises(PeerError, match="CHECK_DEVICE_STATE"):
                ask(str(stage.mountpoint), "migrate", request)
        else:
            ask(str(stage.mountpoint), "migrate", request)
        os.posix_fadvise(held.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert held.read() == content
