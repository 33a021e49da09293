"""Either daemon is gone at every message of a move: the source serves on, or the mount says what happened and ends."""

from __future__ import annotations

import os
import select
import subprocess
from pathlib import Path

import pytest
from daemons import StartDaemon

from ferryfs.errors import PeerError
from ferryfs.frontend.control import ask, control_path
from ferryfs.wire.vhost_user import Request
from interop.cutting import CuttingProxy
from interop.mounting import PATIENCE_SECONDS, daemon_command, daemon_line, ferryfs, mounted, needs_fuse

pytestmark = needs_fuse

NAMES = ("ferryfsd", "virtiofsd-1.14.0")
# What the destination is told, in order; and what the source is told after the mount stands.
TO_DESTINATION = 23
TO_SOURCE = 10


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
        CuttingProxy(whole, last.socket, 1000) as proxy,
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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("more", range(TO_SOURCE))
def test_the_source_dies_at_every_message(
    name: str, more: int, tmp_path: Path, shared: Path, mountpoint: Path, start_daemon: StartDaemon
) -> None:
    source = start_daemon(daemon_command(name), shared, ["--sandbox=none"])
    target = start_daemon(daemon_command(name), shared, ["--sandbox=none"])
    path = tmp_path / "cut"
    with CuttingProxy(path, source.socket, 1000) as proxy:
        ferryfs("mount", path, mountpoint)
        process = os.pidfd_open(ask(str(mountpoint), "status")["pid"])
        try:
            proxy.allowed = len(proxy.passed) + more
            done = ferryfs("migrate", "--collect", "0", mountpoint, target.socket, check=False)
            assert done.returncode == 1
            assert "closed the connection" in done.stderr or "connection broke" in done.stderr
            assert select.select([process], [], [], PATIENCE_SECONDS)[0]
            with pytest.raises(OSError, match="not connected"):
                os.listdir(mountpoint)
        finally:
            os.close(process)
            subprocess.run(["umount", "--lazy", mountpoint], check=True)
        log = control_path(str(mountpoint)).with_suffix(".log")
        assert f"`umount {mountpoint}`" in log.read_text()
        log.unlink()
