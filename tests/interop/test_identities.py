"""--xattrmap and --translate-uid/gid through a mount, against the plain reference of the rules."""

import os
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from daemons import StartDaemon

from ferryfs.passthrough.idmap import Translation, check_rules, parse_rule
from ferryfs.passthrough.xattrmap import UnmappedName, map_client, map_server, parse_rules

from .mounting import daemon_command, mounted, needs_fuse

pytestmark = needs_fuse

RULES = (
    ":prefix:all:user.a.:user.host.: /bad/client/user.bad.// ,unsupported,client,user.no.,, :bad:server::user.hidden.:"
    " :ok:all:user.:user.:"
)
ID_RULES = ("map:0:100000:1000", "squash-guest:5000:7:10", "host:7:5000:1", "forbid-guest:6000:10")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    shared, mountpoint = tmp_path / "shared", tmp_path / "mnt"
    shared.mkdir()
    mountpoint.mkdir()
    return shared, mountpoint


def test_names_of_attributes(start_daemon: StartDaemon, folders: tuple[Path, Path]) -> None:
    shared, mountpoint = folders
    rules = parse_rules(RULES)
    (shared / "file").touch()
    host_names = [b"user.host.user.a.z", b"user.hidden.x", b"user.plain"]
    for name in host_names:
        os.setxattr(shared / "file", name, b"h")
    daemon = start_daemon(daemon_command("ferryfsd"), shared, [f"--xattrmap={RULES}"])
    with mounted(daemon.socket, mountpoint):
        seen = {name.encode() for name in os.listxattr(mountpoint / "file")}
        assert seen == {mapped for name in host_names if (mapped := map_server(rules, name))}
        for name in (b"user.a.x", b"user.b", b"user.bad.x", b"user.no.x"):
            expected = outcome(partial(map_client, rules, name))
            seen_outcome = outcome(partial(set_and_look, mountpoint / "file", name))
            assert seen_outcome == (name if isinstance(expected, bytes) else expected)
            if isinstance(expected, bytes):
                assert os.getxattr(shared / "file", expected) == b"g"


CAPABILITY = struct.pack("<IIIII", 0x02000001, 0x400, 0, 0, 0)
CHANGES: dict[str, Callable[[int, int], object]] = {
    "write": lambda fd, other: (os.pwrite(fd, b"z", 0), os.fsync(fd)),
    "truncate": lambda fd, other: os.ftruncate(fd, 3),
    "allocate": lambda fd, other: os.posix_fallocate(fd, 0, 100),
    "copy": lambda fd, other: os.copy_file_range(other, fd, 5, 0, 0),
    "open": lambda fd, other: os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_TRUNC)),
    "chown": lambda fd, other: os.fchown(fd, 5, 5),
}


@pytest.mark.parametrize("option", [(), ("--killpriv-v2",), ("--killpriv-v2", "--writeback")], ids=" ".join)
@pytest.mark.parametrize("who", ["guest", "host"])
def test_a_renamed_capability_goes_with_any_change(
    who: str, option: tuple[str, ...], start_daemon: StartDaemon, folders: tuple[Path, Path]
) -> None:
    """As one under its own name; also one that the host has set, where the guest has seen before that there is none."""
    shared, mountpoint = folders
    daemon = start_daemon(daemon_command("ferryfsd"), shared, ["--xattrmap=:map::user.virtiofs.:", *option])
    with mounted(daemon.socket, mountpoint):
        (mountpoint / "other").write_text("other")
        other = os.open(mountpoint / "other", os.O_RDONLY)
        for name, change in CHANGES.items():
            fd = os.open(mountpoint / name, os.O_RDWR | os.O_CREAT)
            os.write(fd, b"content")
            os.fsync(fd)
            if who == "guest":
                os.setxattr(mountpoint / name, "security.capability", CAPABILITY)
            else:
                os.setxattr(shared / name, "user.virtiofs.security.capability", CAPABILITY)
            change(fd, other)
            os.close(fd)
            assert os.listxattr(shared / name) == [], name
        os.close(other)


def set_and_look(path: Path, name: bytes) -> bytes:
    os.setxattr(path, name, b"g")
    assert os.getxattr(path, name) == b"g"
    return name


def outcome(attempt: Callable[[], bytes]) -> bytes | int:
    try:
        return attempt()
    except UnmappedName as refused:
        return refused.errno
    except OSError as refused:
        return refused.errno or 0


def test_ids(start_daemon: StartDaemon, folders: tuple[Path, Path]) -> None:
    shared, mountpoint = folders
    ids = Translation(check_rules(map(parse_rule, ID_RULES), "--translate-uid"))
    # Root of the guest is 100000 here, and creates as that.
    os.chown(shared, 100000, 100000)
    options = [f"--translate-{kind}={rule}" for kind in ("uid", "gid") for rule in ID_RULES]
    daemon = start_daemon(daemon_command("ferryfsd"), shared, options)
    with mounted(daemon.socket, mountpoint):
        (mountpoint / "made").touch()
        assert (shared / "made").stat().st_uid == ids.to_host(0)
        assert (mountpoint / "made").stat().st_uid == 0
        for guest_id in (0, 999, 1000, 5000, 5009, 5010, 6000, 6009, 6010):
            host_id = ids.to_host(guest_id)
            if host_id is None:
                with pytest.raises(PermissionError):
                    os.chown(mountpoint / "made", guest_id, -1)
                continue
            os.chown(mountpoint / "made", guest_id, guest_id)
            status = (shared / "made").stat()
            assert (status.st_uid, status.st_gid) == (host_id, host_id)
            seen = (mountpoint / "made").stat()
            assert (seen.st_uid, seen.st_gid) == (ids.to_guest(host_id), ids.to_guest(host_id))
