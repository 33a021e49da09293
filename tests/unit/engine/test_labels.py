"""The security context that a guest gives to what it makes: it is there before anybody else can open the file."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from engine_calls import extensions
from engine_guest import Call, Guest

from ferryfs.passthrough.config import ShareConfig, Ternary
from ferryfs.passthrough.xattrmap import parse_rules
from ferryfs.wire import fuse
from ferryfs.wire.fuse import Op

CONTEXT = b"system_u:object_r:tmp_t:s0\0"
# As Linux sends it: names first, extensions behind them.
MAKERS: dict[Op, Callable[[], bytes]] = {
    Op.CREATE: lambda: fuse.CREATE_IN.pack(flags=os.O_RDWR, mode=0o100644) + b"new\0",
    Op.MKNOD: lambda: fuse.MKNOD_IN.pack(mode=0o100600) + b"new\0",
    Op.MKDIR: lambda: fuse.MKDIR_IN.pack(mode=0o755) + b"new\0",
    Op.SYMLINK: lambda: b"new\0target\0",
}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="security contexts are set by root.")


def make(guest: Guest, op: Op) -> int:
    """The errno (0: none) of making "new" with a context, as user 1000."""
    return guest.send(Call(op, 1, MAKERS[op]() + extensions(), uid=1000, gid=1000, extlen=len(extensions()) // 8)).error


@pytest.mark.parametrize("op", MAKERS)
def test_what_is_made_has_the_context(tmp_path: Path, op: Op) -> None:
    tmp_path.chmod(0o777)
    with Guest(tmp_path, ShareConfig(xattr=True, security_label=Ternary.AUTO)) as guest:
        assert make(guest, op) == 0
    assert os.getxattr(tmp_path / "new", "security.selinux", follow_symlinks=False) == CONTEXT
    assert (tmp_path / "new").lstat().st_uid == 1000


@pytest.mark.parametrize("op", MAKERS)
def test_the_context_goes_by_the_rules_of_names(tmp_path: Path, op: Op) -> None:
    tmp_path.chmod(0o777)
    rules = parse_rules(":map:security.selinux:trusted.ferry.:")
    with Guest(tmp_path, ShareConfig(xattr=True, xattr_rules=rules, security_label=Ternary.AUTO)) as guest:
        assert make(guest, op) == 0
    assert os.getxattr(tmp_path / "new", "trusted.ferry.security.selinux", follow_symlinks=False) == CONTEXT


@pytest.mark.parametrize("op", MAKERS)
def test_nothing_is_left_without_its_context(tmp_path: Path, op: Op) -> None:
    tmp_path.chmod(0o777)
    rules = parse_rules(":bad:all:security.:security.::ok:all:::")
    with Guest(tmp_path, ShareConfig(xattr=True, xattr_rules=rules, security_label=Ternary.AUTO)) as guest:
        assert make(guest, op) == errno.EPERM
    assert not os.path.lexists(tmp_path / "new")
