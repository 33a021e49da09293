"""Extended attributes."""

import errno
import os
from pathlib import Path

from ..assertions import ensure, equal, fails
from ..files import make, opened, until_changed
from ..processes import ALICE, as_user
from ..registry import check
from ..syscalls import getxattr_into, listxattr_into


def _user_attributes(path: Path) -> set[str]:
    """What the host adds by itself (security.*) is not ours."""
    return {name for name in os.listxattr(path) if name.startswith("user.")}


@check("user_xattr")
def set_get_list_remove(directory: Path) -> None:
    file = make(directory / "file")
    equal(set(), _user_attributes(file), "attributes of a new file")
    os.setxattr(file, "user.one", b"1")
    os.setxattr(file, "user.two", b"22")
    equal({"user.one", "user.two"}, _user_attributes(file), "attributes")
    equal((b"1", b"22"), (os.getxattr(file, "user.one"), os.getxattr(file, "user.two")), "values")
    os.setxattr(file, "user.one", b"changed")
    equal(b"changed", os.getxattr(file, "user.one"), "value")
    os.removexattr(file, "user.one")
    equal({"user.two"}, _user_attributes(file), "attributes")


@check("user_xattr")
def missing_is_enodata(directory: Path) -> None:
    file = make(directory / "file")
    with fails(errno.ENODATA):
        os.getxattr(file, "user.missing")
    with fails(errno.ENODATA):
        os.removexattr(file, "user.missing")
    with fails(errno.ENOENT):
        os.getxattr(directory / "missing", "user.name")


@check("user_xattr")
def create_and_replace(directory: Path) -> None:
    file = make(directory / "file")
    with fails(errno.ENODATA):
        os.setxattr(file, "user.name", b"x", os.XATTR_REPLACE)
    os.setxattr(file, "user.name", b"first", os.XATTR_CREATE)
    with fails(errno.EEXIST):
        os.setxattr(file, "user.name", b"x", os.XATTR_CREATE)
    os.setxattr(file, "user.name", b"second", os.XATTR_REPLACE)
    equal(b"second", os.getxattr(file, "user.name"), "value")


@check("user_xattr")
def values_of_any_bytes(directory: Path) -> None:
    file = make(directory / "file")
    for value in (b"", b"\0", b"a\0b\n\xff", bytes(range(256))):
        os.setxattr(file, "user.name", value)
        equal(value, os.getxattr(file, "user.name"), "value")
        equal(len(value), getxattr_into(file, "user.name", 0), "length by a query")


@check("user_xattr")
def value_of_3000_bytes(directory: Path) -> None:
    file = make(directory / "file")
    os.setxattr(file, "user.name", b"x" * 3000)
    equal(b"x" * 3000, os.getxattr(file, "user.name"), "value")


@check("user_xattr")
def value_past_65536_bytes_is_e2big(directory: Path) -> None:
    file = make(directory / "file")
    with fails(errno.E2BIG):
        os.setxattr(file, "user.name", b"x" * 65_537)
    with fails(errno.ENODATA):
        os.getxattr(file, "user.name")


@check("user_xattr")
def large_values_fit_or_are_enospc(directory: Path) -> None:
    file = make(directory / "file")
    for size in (5000, 30_000, 65_536):
        try:
            os.setxattr(file, "user.name", b"x" * size)
        except OSError as error:
            equal(errno.ENOSPC, error.errno, f"errno of setting {size} bytes")
            with fails(errno.ENODATA):
                os.getxattr(file, "user.name")
        else:
            equal(b"x" * size, os.getxattr(file, "user.name"), "value")
            os.removexattr(file, "user.name")


@check("user_xattr")
def name_of_255_bytes_and_more(directory: Path) -> None:
    file = make(directory / "file")
    name = "user." + "n" * 250
    os.setxattr(file, name, b"long")
    equal(b"long", os.getxattr(file, name), "value")
    equal({name}, _user_attributes(file), "attributes")
    with fails(errno.ERANGE):
        os.setxattr(file, name + "n", b"x")


@check("user_xattr")
def names_of_any_bytes(directory: Path) -> None:
    file = make(directory / "file")
    for tail in ("with space", "dotted.name", "Ünï", "\udcff\udcfe", "(deleted)", "a/b"):
        os.setxattr(file, f"user.{tail}", os.fsencode(tail))
        equal(os.fsencode(tail), os.getxattr(file, f"user.{tail}"), "value")
        equal({f"user.{tail}"}, _user_attributes(file), "attributes")
        os.removexattr(file, f"user.{tail}")


@check("user_xattr")
def short_buffer_is_erange(directory: Path) -> None:
    file = make(directory / "file")
    os.setxattr(file, "user.name", b"0123456789")
    with fails(errno.ERANGE):
        getxattr_into(file, "user.name", 9)
    equal(10, getxattr_into(file, "user.name", 10), "length with a buffer that just fits")
    length = listxattr_into(file, 0)
    ensure(length >= len("user.name") + 1, "the list has room for the name")
    with fails(errno.ERANGE):
        listxattr_into(file, length - 1)
    equal(length, listxattr_into(file, length), "length of the list")


@check("user_xattr")
def of_a_symlink_is_eperm(directory: Path) -> None:
    (directory / "link").symlink_to("nowhere")
    with fails(errno.EPERM):
        os.setxattr(directory / "link", "user.name", b"x", follow_symlinks=False)
    with fails(errno.ENOENT):
        os.setxattr(directory / "link", "user.name", b"x")


@check("user_xattr")
def of_a_fifo_is_eperm(directory: Path) -> None:
    os.mkfifo(directory / "fifo")
    with fails(errno.EPERM):
        os.setxattr(directory / "fifo", "user.name", b"x")


@check("user_xattr")
def through_a_symlink(directory: Path) -> None:
    file = make(directory / "file")
    (directory / "link").symlink_to("file")
    os.setxattr(directory / "link", "user.name", b"value")
    equal(b"value", os.getxattr(file, "user.name"), "value of the target")


@check("user_xattr")
def of_a_directory(directory: Path) -> None:
    folder = directory / "dir"
    folder.mkdir()
    os.setxattr(folder, "user.name", b"value")
    equal(b"value", os.getxattr(folder, "user.name"), "value")
    equal([], os.listdir(folder), "listing")


@check("user_xattr")
def through_an_fd(directory: Path) -> None:
    with opened(make(directory / "file"), os.O_RDWR) as fd:
        os.setxattr(fd, "user.name", b"value")
        equal(b"value", os.getxattr(fd, "user.name"), "value")
        ensure("user.name" in os.listxattr(fd), "the name is listed")
        os.removexattr(fd, "user.name")
        with fails(errno.ENODATA):
            os.getxattr(directory / "file", "user.name")


@check("user_xattr")
def unknown_namespace_is_refused(directory: Path) -> None:
    file = make(directory / "file")
    for name in ("nonsense.name", "plain"):
        with fails(errno.EOPNOTSUPP):
            os.setxattr(file, name, b"x")
    with fails(errno.EINVAL, errno.EOPNOTSUPP):
        os.setxattr(file, "user.", b"x")
    with fails(errno.ERANGE, errno.EOPNOTSUPP):
        os.setxattr(file, "", b"x")


@check("root", "trusted_xattr")
def trusted_is_for_root(directory: Path) -> None:
    file = make(directory / "file")
    file.chmod(0o666)
    os.setxattr(file, "trusted.name", b"secret")
    equal(b"secret", os.getxattr(file, "trusted.name"), "value")

    def try_it() -> None:
        with fails(errno.ENODATA, errno.EPERM):
            os.getxattr(file, "trusted.name")
        with fails(errno.EPERM):
            os.setxattr(file, "trusted.name", b"x")

    as_user(ALICE, try_it)


@check("root", "user_xattr")
def need_file_permission(directory: Path) -> None:
    file = make(directory / "file")
    os.setxattr(file, "user.name", b"value")

    def read_only() -> None:
        equal(b"value", os.getxattr(file, "user.name"), "value")
        with fails(errno.EACCES):
            os.setxattr(file, "user.name", b"x")
        with fails(errno.EACCES):
            os.removexattr(file, "user.name")

    file.chmod(0o644)
    as_user(ALICE, read_only)

    def nothing() -> None:
        with fails(errno.EACCES):
            os.getxattr(file, "user.name")

    file.chmod(0o600)
    as_user(ALICE, nothing)


@check("user_xattr")
def many_on_one_file(directory: Path) -> None:
    file = make(directory / "file")
    expected = {f"user.name{index}": b"value %d" % index for index in range(40)}
    for name, value in expected.items():
        os.setxattr(file, name, value)
    equal(expected, {name: os.getxattr(file, name) for name in _user_attributes(file)}, "attributes")


@check("user_xattr")
def stay_with_the_file(directory: Path) -> None:
    file = make(directory / "file")
    os.setxattr(file, "user.name", b"value")
    file.rename(directory / "moved")
    os.link(directory / "moved", directory / "other")
    equal(b"value", os.getxattr(directory / "other", "user.name"), "value by another name")
    make(file)
    equal(set(), _user_attributes(file), "attributes of a new file of the old name")


@check("user_xattr")
def setting_moves_ctime(directory: Path) -> None:
    file = make(directory / "file")
    mtime = file.stat().st_mtime_ns
    until_changed("ctime", lambda: file.stat().st_ctime_ns, lambda: os.setxattr(file, "user.name", b"value"))
    until_changed("ctime", lambda: file.stat().st_ctime_ns, lambda: _set_and_remove(file))
    equal(mtime, file.stat().st_mtime_ns, "mtime")


def _set_and_remove(file: Path) -> None:
    os.setxattr(file, "user.other", b"value")
    os.removexattr(file, "user.other")


# Version 2, effective, permitted CAP_NET_BIND_SERVICE.
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


@check("root", "user_xattr")
def file_capability_goes_on_write(directory: Path) -> None:
    file = make(directory / "file")
    os.setxattr(file, "security.capability", CAPABILITY)
    equal(CAPABILITY, os.getxattr(file, "security.capability"), "capability")
    with opened(file, os.O_WRONLY) as fd:
        os.write(fd, b"x")
    with fails(errno.ENODATA):
        os.getxattr(file, "security.capability")


@check("root", "user_xattr")
def file_capability_goes_on_chown(directory: Path) -> None:
    file = make(directory / "file")
    os.setxattr(file, "security.capability", CAPABILITY)
    os.chown(file, 1, 1)
    with fails(errno.ENODATA):
        os.getxattr(file, "security.capability")
