"""Once the root has changed, the daemon's own code opens nothing by name any more: every error path, traced.

What requests open goes through descriptors (`openat` with a directory and one name). Python, the C library and whatever
they load late go by absolute paths or by the working directory; one such call after the root has changed fails the
test, found or not. The share is full of what they might look for.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from daemons import StartDaemon

from ferryfs.errors import PeerError
from ferryfs.frontend.client import VhostUserClient
from ferryfs.frontend.state import load_state
from ferryfs.guest.backend import Backend
from ferryfs.wire.vhost_user import ProtocolFeature

from .mounting import daemon_command, ferryfs, mounted, needs_fuse

pytestmark = [
    *needs_fuse,
    pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace: apt-get install strace"),
]

BAIT = (
    *(f"usr/lib/python3.{minor}/{name}" for minor in (11, 12, 13) for name in ("os.py", "encodings/idna.py")),
    *(f"{folder}/libgcc_s.so.1" for folder in ("lib", "usr/lib", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")),
    *("etc/nsswitch.conf", "etc/localtime", "etc/ld.so.cache", "etc/ld.so.preload", "etc/passwd", "etc/group"),
    *("usr/lib/x86_64-linux-gnu/gconv/gconv-modules", "usr/lib/locale/locale-archive", "usr/share/locale/locale.alias"),
    *("usr/share/zoneinfo/UTC", "proc/self/status", "dev/urandom", "dev/null", "sys/kernel/mm/hugepages"),
)
# Not UTF-8, not ASCII, with a line break, with a surrogate's bytes.
NAMES = (b"\xff\xfe", "fährt 🚢".encode(), b"two\nlines", b"\xed\xa0\x80")
EVERYTHING = ("--xattr", "--posix-acl=auto", "--killpriv-v2", "--allow-direct-io", "--keep-listening")

CHANGED = re.compile(r"^(\d+) +(?:pivot_root|chroot)\(")
# A worker's working directory is /proc/self/fd: a number is a descriptor. symlinkat(2) only writes its first path.
BY_NAME = re.compile(r'^(\d+) +(?!symlinkat)(\w+)\((?:AT_FDCWD, )?"(?!\d+")([^"]*)"')
# The last steps of changing the root, by the daemon itself.
STEPS = {("umount2", "."), ("chdir", "/"), ("openat", "/share")}


def opened_by_name(trace: Path) -> list[str]:
    """The calls of the confined process, after its root has changed, that name a file other than by a descriptor."""
    found: list[str] = []
    confined = False
    outer = ""
    for line in trace.read_text(errors="replace").splitlines():
        pid = line.partition(" ")[0]
        outer = outer or pid
        if changed := CHANGED.match(line):
            confined = True
            # With chroot there is only one process.
            outer = "" if changed[1] == outer else outer
        elif confined and pid != outer and (call := BY_NAME.match(line)) and (call[2], call[3]) not in STEPS:
            found.append(line)
    assert confined, "the trace has no change of the root"
    return found


def lay_bait(share: Path) -> None:
    for name in BAIT:
        (share / name).parent.mkdir(parents=True, exist_ok=True)
        (share / name).write_bytes(b"open('/TAKEN', 'w').close()\n")


def use(mountpoint: Path) -> None:
    """A bit of everything, and what fails."""
    here = os.fsencode(mountpoint)
    for name in NAMES:
        with open(here + b"/" + name, "wb") as file:
            file.write(b"x")
    os.symlink("/usr/lib/python3.11/os.py", mountpoint / "link")
    os.mkdir(mountpoint / "folder", 0o700)
    os.chown(mountpoint / "folder", 1000, 1000)
    os.rename(mountpoint / "link", mountpoint / "folder" / "link")
    with open(mountpoint / "etc" / "passwd", "r+b") as file:
        os.fsync(file.fileno())
    for attempt in (
        lambda: os.rmdir(mountpoint / "etc"),
        lambda: os.getxattr(mountpoint, "user.none"),
        lambda: os.setxattr(mountpoint, "system.none", b""),
        lambda: os.open(mountpoint / ("n" * 300), os.O_RDONLY),
    ):
        with pytest.raises(OSError, match=r".+"):
            attempt()


def ask_nonsense(socket: Path) -> None:
    """Front-ends that break the protocol, each in its way."""
    with VhostUserClient.connect(socket) as client:
        client.send_raw(b"\xff" * 64)
        with pytest.raises(PeerError):
            client.get_features()
    for stream in (b"", b"\xff" * 100, b"\x00\x05"):
        with VhostUserClient.connect(socket) as client:
            client.set_protocol_features(1 << ProtocolFeature.REPLY_ACK | 1 << ProtocolFeature.DEVICE_STATE)
            with pytest.raises(PeerError):
                load_state(client, stream)


@pytest.mark.parametrize(("mode", "style"), [("namespace", "--log-format=json"), ("chroot", "--log-level=trace")])
def test_every_error_path(start_daemon: StartDaemon, tmp_path: Path, mode: str, style: str) -> None:
    share, other, mountpoint = (tmp_path / name for name in ("share", "other", "mnt"))
    for folder in (share, other, mountpoint):
        folder.mkdir()
    lay_bait(share)
    lay_bait(other)
    traces: list[Path] = []
    daemons: list[Backend] = []
    for place, more in ((share, ()), (share, ()), (other, ("--migration-on-error=guest-error",))):
        traces.append(tmp_path / f"trace{len(traces)}")
        # With -D it is the daemon that is our child.
        tracer = ["strace", "-D", "-f", "-qq", "--seccomp-bpf", "-e", "trace=%file,execve", "-o", str(traces[-1])]
        options = [f"--sandbox={mode}", style, *EVERYTHING, *more]
        daemons.append(start_daemon([*tracer, *daemon_command("ferryfsd")], place, options))
    source, destination, stranger = daemons
    with mounted(source.socket, mountpoint):
        use(mountpoint)
        held = [os.open(os.fsencode(mountpoint) + b"/" + name, os.O_RDONLY) for name in NAMES]
        os.unlink(os.fsencode(share) + b"/" + NAMES[0])
        # What it doesn't find is lost to the guest, by name; then back to the share itself.
        ferryfs("migrate", mountpoint, stranger.socket, check=False)
        ferryfs("migrate", mountpoint, destination.socket, check=False)
        for fd in held:
            os.close(fd)
    for daemon in (source, destination):
        ask_nonsense(daemon.socket)
    for daemon in daemons:
        daemon.stop()
    assert "f\\u00e4hrt" in stranger.log_text() or "fährt" in stranger.log_text()
    for trace in traces:
        assert opened_by_name(trace) == []
    assert not (share / "TAKEN").exists()
