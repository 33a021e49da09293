"""Either daemon is gone at every message of a move: the source serves on, or the mount says what happened and ends."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from daemons import StartDaemon

from ferryfs.errors import PeerError
from ferryfs.frontend.control import ask, control_path
from ferryfs.guest.backend import Backend
from ferryfs.wire.vhost_user import Request
from interop.cutting import CuttingProxy
from interop.mounting import PATIENCE_SECONDS, daemon_command, daemon_line, ferryfs, mounted, needs_fuse

pytestmark = needs_fuse

NAMES = ("ferryfsd", "virtiofsd-1.14.0")
# What the destination is told, in order.
TO_DESTINATION = 23


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    path = tmp_path / "shared"
    path.mkdir()
    (path / "file").write_text("content\n")
    return path


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    path = tmp_path / "mountpoint"
    path.mkdir()
    return path


@pytest.mark.parametrize("name", NAMES)
def test_the_destination_dies_at_every_message(
    name: str, tmp_path: Path, shared: Path, mountpoint: Path, start_daemon: StartDaemon
) -> None:
    last = start_daemon(daemon_command(name), shared, ["--sandbox=none"])
    whole = tmp_path / "whole"
    with (
        CuttingProxy(whole, last.socket) as proxy,
        mounted(tmp_path / "socket", mountpoint, "--daemon", daemon_line(name, shared)),
        (mountpoint / "file").open() as held,
    ):
        pid = ask(str(mountpoint), "status")["daemon_pid"]
        for allowed in range(TO_DESTINATION):
            target = start_daemon(daemon_command(name), shared, ["--sandbox=none"])
            path = tmp_path / f"cut{allowed}"
            with CuttingProxy(path, target.socket, allowed) as cut:
                with pytest.raises(PeerError, match=r"The daemon|The connection"):
                    ask(str(mountpoint), "migrate", {"destination": str(path), "collect_s": 0})
                assert len(cut.passed) == allowed, cut.passed
            assert ask(str(mountpoint), "status")["daemon_pid"] == pid
            (mountpoint / f"new{allowed}").write_text("served")
            held.seek(0)
            assert held.read() == "content\n"
        # And one that lives: nothing of all that is left.
        ferryfs("migrate", "--collect", "0", mountpoint, whole)
        assert len(proxy.passed) == TO_DESTINATION
        assert proxy.passed[-1] == Request.SET_VRING_ENABLE
        held.seek(0)
        assert held.read() == "content\n"
        assert len(os.listdir(mountpoint)) == TO_DESTINATION + 1


# So many names that the state is far longer than what a pipe takes.
NAMES_HELD = 2500
MIDDLE_BYTES = 150_000


@contextmanager
def dying_mount(socket: Path, mountpoint: Path) -> Iterator[int]:
    """A mount that ends in the block without being unmounted; its process, as a file descriptor. Nothing is left."""
    ferryfs("mount", socket, mountpoint)
    process = os.pidfd_open(ask(str(mountpoint), "status")["pid"])
    try:
        yield process
        assert select.select([process], [], [], PATIENCE_SECONDS)[0]
    finally:
        os.close(process)
        subprocess.run(["umount", "--lazy", mountpoint], check=True)


def hold_much(shared: Path, mountpoint: Path) -> None:
    """What makes the state long."""
    (shared / "many").mkdir()
    names = [f"{number:05}{'n' * 95}" for number in range(NAMES_HELD)]
    for name in names:
        (shared / "many" / name).touch()
    for name in names:
        (mountpoint / "many" / name).stat()


def break_at(proxy: CuttingProxy, point: Request | str, then: Callable[[], None]) -> None:
    """Does something just before a message goes on, or in the middle of the state."""
    if isinstance(point, Request):
        proxy.before[point] = then
    else:
        proxy.tap_state(MIDDLE_BYTES, then)


def after(point: Request | str) -> str:
    """The message that can't be answered any more."""
    return point.name if isinstance(point, Request) else Request.CHECK_DEVICE_STATE.name


def named(value: object) -> str:
    """A message by its name."""
    return value.name if isinstance(value, Request) else str(value) or "nothing"


PIPE = "in the middle of the state"
# Each message of the exchange with the source, what its daemon's death there makes the mount say, and the destination.
SOURCE_POINTS: tuple[Request | str, ...] = (
    Request.SET_LOG_BASE,
    Request.SET_FEATURES,
    Request.SET_VRING_ADDR,
    Request.SET_VRING_ENABLE,
    Request.GET_VRING_BASE,
    Request.SET_DEVICE_STATE_FD,
    PIPE,
    Request.CHECK_DEVICE_STATE,
)
DESTINATION_POINTS: tuple[Request | str, ...] = (
    Request.SET_DEVICE_STATE_FD,
    PIPE,
    Request.CHECK_DEVICE_STATE,
    Request.SET_FEATURES,
    Request.SET_MEM_TABLE,
    Request.SET_VRING_KICK,
    Request.SET_VRING_ENABLE,
)


def backend_to_kill(name: str, shared: Path, folder: Path) -> Backend:
    """A daemon that nobody expects to end well."""
    path = folder / "killed"
    return Backend(daemon_command(name), shared, path, path.with_suffix(".log"), ["--sandbox=none"])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("point", SOURCE_POINTS, ids=named)
def test_the_source_is_killed(
    name: str, point: Request | str, tmp_path: Path, shared: Path, mountpoint: Path, start_daemon: StartDaemon
) -> None:
    """The mount says at which message and ends, with the way to be rid of it; the destination's daemon ends well."""
    target = start_daemon(daemon_command(name), shared, ["--sandbox=none"])
    with (
        backend_to_kill(name, shared, tmp_path) as source,
        CuttingProxy(tmp_path / "proxy", source.socket) as proxy,
        dying_mount(tmp_path / "proxy", mountpoint),
    ):
        if point == PIPE:
            hold_much(shared, mountpoint)
        break_at(proxy, point, source.kill)
        done = ferryfs("migrate", "--collect", "0", mountpoint, target.socket, check=False)
        assert done.returncode == 1
        assert after(point) in done.stderr
    log = control_path(str(mountpoint)).with_suffix(".log")
    assert f"`umount {mountpoint}`" in log.read_text()
    log.unlink()
    target.wait()


@pytest.mark.parametrize("name", NAMES)
def test_the_destination_is_killed(
    name: str, tmp_path: Path, shared: Path, mountpoint: Path, start_daemon: StartDaemon
) -> None:
    """The mount says at which message; the source serves on with what the guest holds, and migrates in the end."""
    source, last = (start_daemon(daemon_command(name), shared, ["--sandbox=none"]) for _ in range(2))
    with mounted(source.socket, mountpoint), (mountpoint / "file").open() as held:
        hold_much(shared, mountpoint)
        for number, point in enumerate(DESTINATION_POINTS):
            folder = tmp_path / f"{number}"
            folder.mkdir()
            with (
                backend_to_kill(name, shared, folder) as target,
                CuttingProxy(folder / "proxy", target.socket) as proxy,
            ):
                break_at(proxy, point, target.kill)
                done = ferryfs("migrate", "--collect", "0", mountpoint, folder / "proxy", check=False)
                assert done.returncode == 1
                assert after(point) in done.stderr
            held.seek(0)
            assert held.read() == "content\n"
            (mountpoint / f"new{number}").write_text("served")
        ferryfs("migrate", "--collect", "0", mountpoint, last.socket)
        source.wait()
        held.seek(0)
        assert held.read() == "content\n"
    # It ends by itself: a signal in the middle of that changes its status.
    last.wait()


COLLECTED = "paths were being collected"
SAVED = "the state was being saved"
LOADED = "the state was being loaded"
NOT_STARTED = "the guest had not started yet"
# Whom the mount has just told what when it is killed, and what that daemon was about then.
MOUNT_POINTS = (
    ("source", Request.SET_LOG_BASE, ""),
    *(("source", point, COLLECTED) for point in SOURCE_POINTS[1:5]),
    *(("source", point, SAVED) for point in SOURCE_POINTS[5:7]),
    ("source", Request.CHECK_DEVICE_STATE, ""),
    *(("target", point, LOADED) for point in DESTINATION_POINTS[:2]),
    *(("target", point, NOT_STARTED) for point in DESTINATION_POINTS[2:5]),
    *(("target", point, "") for point in DESTINATION_POINTS[5:]),
)


@pytest.mark.parametrize(("who", "point", "said"), MOUNT_POINTS, ids=named)
def test_the_mount_is_killed(
    who: str,
    point: Request | str,
    said: str,
    tmp_path: Path,
    shared: Path,
    mountpoint: Path,
    start_daemon: StartDaemon,
) -> None:
    """Both daemons end well, and say what they were about; so does who asked for the migration."""
    daemons = {
        name: start_daemon(daemon_command("ferryfsd"), shared, ["--sandbox=none"]) for name in ("source", "target")
    }
    with (
        CuttingProxy(tmp_path / "source", daemons["source"].socket) as source,
        CuttingProxy(tmp_path / "target", daemons["target"].socket) as target,
        dying_mount(tmp_path / "source", mountpoint) as process,
    ):
        if point == PIPE:
            hold_much(shared, mountpoint)
        proxy = source if who == "source" else target
        break_at(proxy, point, lambda: signal.pidfd_send_signal(process, signal.SIGKILL))
        with pytest.raises(PeerError, match="ended before it answered migrate"):
            ask(str(mountpoint), "migrate", {"destination": str(tmp_path / "target"), "collect_s": 0})
    for daemon in daemons.values():
        daemon.wait()
    log = daemons[who].log_text()
    assert (said in log, "in the middle of it" in log) == (True, bool(said))
