"""POSIX ACLs, as the raw attributes that getfacl and setfacl use."""

import errno
import os
import struct
from pathlib import Path
from typing import Final

from ..assertions import ensure, equal, fails
from ..files import make, mode_of, opened
from ..processes import ALICE, BOB, CAROL, TEAM_GID, User, as_user, umask
from ..registry import check

ACCESS: Final = "system.posix_acl_access"
DEFAULT: Final = "system.posix_acl_default"
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NOBODY: Final = 0xFFFFFFFF

Acl = list[tuple[int, int, int]]


def _encode(acl: Acl) -> bytes:
    """(tag, permission, id) for each entry, in the order that the kernel wants."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in acl)


def _decode(raw: bytes) -> Acl:
    equal(2, struct.unpack_from("<I", raw)[0], "version of the ACL")
    return [(tag, permission, who) for tag, permission, who in struct.iter_unpack("<HHI", raw[4:])]


def _acl(owner: int, group: int, other: int, mask: int | None = None, users: Acl | None = None) -> Acl:
    """Owner, group, other and mask; `users` are entries of named users and groups."""
    named = users or []
    return [
        (USER_OBJ, owner, NOBODY),
        *[entry for entry in named if entry[0] == USER],
        (GROUP_OBJ, group, NOBODY),
        *[entry for entry in named if entry[0] == GROUP],
        *([(MASK, mask, NOBODY)] if mask is not None else []),
        (OTHER, other, NOBODY),
    ]


def _set(path: Path, name: str, acl: Acl) -> None:
    os.setxattr(path, name, _encode(acl))


def _get(path: Path, name: str) -> Acl:
    return _decode(os.getxattr(path, name))


def _can_read(file: Path, user: User) -> bool:
    answer, say = os.pipe()

    def try_it() -> None:
        try:
            with opened(file):
                os.write(say, b"y")
        except PermissionError:
            os.write(say, b"n")

    as_user(user, try_it)
    os.close(say)
    with os.fdopen(answer, "rb") as pipe:
        return pipe.read() == b"y"


@check("acl")
def access_acl_round_trip(directory: Path) -> None:
    file = make(directory / "file")
    acl = _acl(6, 4, 0, 6, [(USER, 6, ALICE.uid), (USER, 4, BOB.uid), (GROUP, 4, TEAM_GID)])
    _set(file, ACCESS, acl)
    equal(acl, _get(file, ACCESS), "ACL")
    ensure(ACCESS in os.listxattr(file), "the ACL is listed")
    os.removexattr(file, ACCESS)
    with fails(errno.ENODATA):
        os.getxattr(file, ACCESS)


@check("acl")
def group_bits_of_the_mode_are_the_mask(directory: Path) -> None:
    file = make(directory / "file")
    _set(file, ACCESS, _acl(7, 5, 1, 6, [(USER, 4, ALICE.uid)]))
    equal(0o761, mode_of(file), "mode")


@check("acl")
def chmod_changes_the_mask(directory: Path) -> None:
    file = make(directory / "file")
    _set(file, ACCESS, _acl(6, 6, 4, 6, [(USER, 6, ALICE.uid)]))
    file.chmod(0o640)
    equal(_acl(6, 6, 0, 4, [(USER, 6, ALICE.uid)]), _get(file, ACCESS), "ACL")


@check("acl")
def minimal_acl_is_only_a_mode(directory: Path) -> None:
    file = make(directory / "file")
    _set(file, ACCESS, _acl(6, 4, 0))
    equal(0o640, mode_of(file), "mode")
    with fails(errno.ENODATA):
        os.getxattr(file, ACCESS)


@check("acl")
def default_acl_round_trip(directory: Path) -> None:
    folder = directory / "dir"
    folder.mkdir()
    acl = _acl(7, 5, 0, 7, [(USER, 7, ALICE.uid)])
    _set(folder, DEFAULT, acl)
    equal(acl, _get(folder, DEFAULT), "default ACL")
    equal(0o755, mode_of(folder), "mode")
    with fails(errno.ENODATA):
        os.getxattr(folder, ACCESS)
    os.removexattr(folder, DEFAULT)
    with fails(errno.ENODATA):
        os.getxattr(folder, DEFAULT)


@check("acl")
def default_acl_of_a_file_is_eacces(directory: Path) -> None:
    with fails(errno.EACCES):
        _set(make(directory / "file"), DEFAULT, _acl(6, 4, 0))


@check("acl")
def new_file_inherits_the_default_acl(directory: Path) -> None:
    _set(directory, DEFAULT, _acl(7, 5, 1, 7, [(USER, 7, ALICE.uid)]))
    with umask(0o077):
        os.close(os.open(directory / "file", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
    equal(_acl(6, 5, 0, 6, [(USER, 7, ALICE.uid)]), _get(directory / "file", ACCESS), "ACL of the file")
    equal(0o660, mode_of(directory / "file"), "mode, to which the umask did nothing")


@check("acl")
def new_directory_inherits_and_passes_on(directory: Path) -> None:
    acl = _acl(7, 5, 0, 7, [(USER, 7, ALICE.uid)])
    _set(directory, DEFAULT, acl)
    (directory / "dir").mkdir(mode=0o750)
    (directory / "dir" / "sub").mkdir(mode=0o777)
    equal(acl, _get(directory / "dir", DEFAULT), "default ACL of the directory")
    equal(_acl(7, 5, 0, 5, [(USER, 7, ALICE.uid)]), _get(directory / "dir", ACCESS), "ACL of the directory")
    equal(acl, _get(directory / "dir" / "sub", DEFAULT), "default ACL below")


@check("acl")
def new_fifo_inherits_the_default_acl(directory: Path) -> None:
    _set(directory, DEFAULT, _acl(7, 5, 0, 7, [(USER, 7, ALICE.uid)]))
    with umask(0o077):
        os.mkfifo(directory / "fifo", 0o644)
    equal(_acl(6, 5, 0, 4, [(USER, 7, ALICE.uid)]), _get(directory / "fifo", ACCESS), "ACL of the FIFO")


@check("acl", "tmpfile")
def o_tmpfile_inherits_the_default_acl(directory: Path) -> None:
    _set(directory, DEFAULT, _acl(7, 5, 0, 7, [(USER, 7, ALICE.uid)]))
    with umask(0o077), opened(directory, os.O_TMPFILE | os.O_RDWR, 0o660) as fd:
        equal(_acl(6, 5, 0, 6, [(USER, 7, ALICE.uid)]), _decode(os.getxattr(fd, ACCESS)), "ACL")


@check("acl")
def umask_applies_without_a_default_acl(directory: Path) -> None:
    _set(directory, ACCESS, _acl(7, 5, 0, 7, [(USER, 7, ALICE.uid)]))
    with umask(0o026):
        os.close(os.open(directory / "file", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
    equal(0o640, mode_of(directory / "file"), "mode")


@check("acl", "root")
def named_user_is_let_in(directory: Path) -> None:
    file = make(directory / "file")
    _set(file, ACCESS, _acl(6, 0, 0, 4, [(USER, 4, ALICE.uid)]))
    equal((True, False), (_can_read(file, ALICE), _can_read(file, BOB)), "who can read")


@check("acl", "root")
def named_user_is_kept_out(directory: Path) -> None:
    file = make(directory / "file")
    _set(file, ACCESS, _acl(6, 4, 4, 4, [(USER, 0, ALICE.uid)]))
    equal((False, True), (_can_read(file, ALICE), _can_read(file, BOB)), "who can read")


@check("acl", "root")
def named_group_is_let_in(directory: Path) -> None:
    file = make(directory / "file")
    _set(file, ACCESS, _acl(6, 0, 0, 4, [(GROUP, 4, TEAM_GID)]))
    equal((True, False), (_can_read(file, CAROL), _can_read(file, BOB)), "who can read")


@check("acl", "root")
def mask_limits_named_users(directory: Path) -> None:
    file = make(directory / "file")
    _set(file, ACCESS, _acl(6, 4, 0, 0, [(USER, 6, ALICE.uid)]))
    ensure(not _can_read(file, ALICE), "the mask takes Alice's permission")
    file.chmod(0o640)
    ensure(_can_read(file, ALICE), "chmod gives it back")


@check("acl", "root")
def only_the_owner_sets_one(directory: Path) -> None:
    file = make(directory / "file")
    file.chmod(0o666)

    def try_it() -> None:
        with fails(errno.EPERM):
            _set(file, ACCESS, _acl(6, 6, 6))
        with fails(errno.EPERM):
            _set(directory, DEFAULT, _acl(6, 6, 6))

    as_user(ALICE, try_it)
    os.chown(file, ALICE.uid, ALICE.gid)
    as_user(ALICE, lambda: _set(file, ACCESS, _acl(6, 0, 0, 4, [(USER, 4, BOB.uid)])))
    ensure(_can_read(file, BOB), "Bob is let in by the owner")


@check("acl")
def nonsense_is_einval(directory: Path) -> None:
    file = make(directory / "file")
    for raw in (
        _encode(_acl(6, 4, 0, None, [(USER, 6, ALICE.uid)])),
        _encode([(USER_OBJ, 6, NOBODY)]),
        _encode([(OTHER, 0, NOBODY), (GROUP_OBJ, 0, NOBODY), (USER_OBJ, 6, NOBODY)]),
        _encode(_acl(6, 4, 0))[:-1],
        b"",
    ):
        if raw:
            with fails(errno.EINVAL):
                os.setxattr(file, ACCESS, raw)
    with fails(errno.EOPNOTSUPP, errno.EINVAL):
        os.setxattr(file, ACCESS, struct.pack("<I", 1) + _encode(_acl(6, 4, 0))[4:])
    equal(0o644, mode_of(file), "mode")
