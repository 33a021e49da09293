"""--xattrmap and --translate-uid/gid through a mount, against the plain reference of the rules."""

import os
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
