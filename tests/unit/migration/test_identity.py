"""Same directory or not: each property spoilt in turn, and real file systems: fresh images, clones, tmpfs,
overlayfs.
"""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from namespaces import needs_mounts, with_mounts

from ferryfs.migration import identity
from ferryfs.migration.identity import Sameness, boot_id, make_handle, of_mounted, same_directory
from migration.samples import EXT4

ELSEWHERE = replace(EXT4, host=b"another kernel's", device=77)


def test_all_equal_on_two_hosts() -> None:
    """Handle, UUID and birth time: the same, whatever the device numbers."""
    assert same_directory(EXT4, ELSEWHERE).sameness is Sameness.SAME


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (replace(ELSEWHERE, kind=1), "of type 0x1"),
        (replace(ELSEWHERE, uuid=bytes(15) + b"\1"), "UUID 00000000000000000000000000000001"),
        (replace(ELSEWHERE, handle=b"\x03\0\0\0\0\0\0\0"), "another file handle"),
        (replace(ELSEWHERE, handle_type=2), "another file handle"),
        (replace(ELSEWHERE, inode=3), "is inode 3"),
        (replace(ELSEWHERE, born_ns=1), "made at another time"),
        (replace(EXT4, born_ns=1), "made at another time"),
        (replace(ELSEWHERE, uuid=b"", fsid=1), "f_fsid 0x1"),
    ],
)
def test_one_thing_differs(other: identity.FileSystemIdentity, said: str) -> None:
    """Any one of them makes it another directory, either way round."""
    verdict = same_directory(EXT4, other)
    assert verdict.sameness is Sameness.DIFFERENT
    assert said in verdict.reason
    assert same_directory(other, EXT4).sameness is Sameness.DIFFERENT


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (replace(ELSEWHERE, handle=b""), "no file handle"),
        (replace(ELSEWHERE, uuid=b"", fsid=0), "no file-system UUID or lasting f_fsid"),
        (replace(ELSEWHERE, born_ns=-1), "no birth time"),
        (replace(ELSEWHERE, born_ns=-1, handle=b""), "no file handle and no birth time"),
        (replace(EXT4, device=os.makedev(8, 99)), "another block device of the same host"),
    ],
)
def test_one_proof_is_missing(other: identity.FileSystemIdentity, said: str) -> None:
    """Nothing differs, but the proof is not whole: not the same."""
    verdict = same_directory(EXT4, other)
    assert verdict.sameness is Sameness.UNPROVEN
    assert said in verdict.reason


def test_a_lasting_fsid_stands_in_for_the_uuid() -> None:
    """An older kernel on one side: ext4's f_fsid is made of the UUID. That of xfs is not."""
    assert same_directory(EXT4, replace(ELSEWHERE, uuid=b"")).sameness is Sameness.SAME
    xfs = replace(EXT4, kind=0x58465342, uuid=b"")
    assert same_directory(xfs, replace(ELSEWHERE, kind=0x58465342)).sameness is Sameness.UNPROVEN


def test_one_host() -> None:
    """Equal device and inode on one kernel need no UUID and no birth time."""
    bare = replace(EXT4, uuid=b"", fsid=0, born_ns=-1, handle=b"")
    assert same_directory(bare, bare).sameness is Sameness.SAME
    assert same_directory(replace(bare, host=b""), replace(bare, host=b"")).sameness is Sameness.UNPROVEN


def test_fuse() -> None:
    """Its next mount has all of it equal, and its handles are of other files."""
    fuse = replace(EXT4, kind=0x65735546, uuid=b"", fsid=0)
    verdict = same_directory(fuse, fuse)
    assert verdict.sameness is Sameness.UNPROVEN
    assert not verdict.handles
    assert same_directory(EXT4, EXT4).handles


def test_real_directories(tmp_path: Path) -> None:
    """A directory is itself, by any fd and any name, and not another one beside it."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "link").symlink_to("a")
    fds = [os.open(tmp_path / name, os.O_PATH | os.O_DIRECTORY) for name in ("a", "link", "b")]
    try:
        first, again, other = (of_mounted(fd, boot_id()) for fd in fds)
    finally:
        for fd in fds:
            os.close(fd)
    assert len(first.host) == 16
    assert same_directory(first, again).sameness is Sameness.SAME
    assert same_directory(first, other).sameness is Sameness.DIFFERENT


@pytest.mark.skipif(os.geteuid() != 0, reason="to become another user takes root")
def test_a_directory_that_can_not_be_read(tmp_path: Path) -> None:
    """A daemon of an ordinary user may pass through it: all of its identity but the UUID can be told."""
    tmp_path.chmod(0o711)
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)

    def as_nobody() -> identity.FileSystemIdentity:
        # Of this thread alone.
        ctypes.CDLL(None).setfsuid(65534)
        with pytest.raises(PermissionError):
            os.open(".", os.O_RDONLY, dir_fd=fd)
        return of_mounted(fd)

    try:
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(as_nobody).result()
        assert found == replace(of_mounted(fd), uuid=b"", fsid=found.fsid)
    finally:
        os.close(fd)


def test_handles_of_files(tmp_path: Path) -> None:
    """By name and by fd alike; a symbolic link's own; a hard link's equal; a new file in its place another."""
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    os.link(tmp_path / "file", tmp_path / "hard")
    fd = os.open(tmp_path, os.O_PATH)
    try:
        file, link, hard = (make_handle(fd, name) for name in (b"file", b"link", b"hard"))
        if file is None:
            pytest.skip(f"the file system of {tmp_path} has no file handles")
        assert file == hard
        assert file != link
        file_fd = os.open(tmp_path / "file", os.O_PATH)
        assert make_handle(file_fd) == file
        os.close(file_fd)
        (tmp_path / "other").write_bytes(b"x")
        os.replace(tmp_path / "other", tmp_path / "file")
        assert make_handle(fd, b"file") != file
        with pytest.raises(FileNotFoundError):
            make_handle(fd, b"missing")
    finally:
        os.close(fd)


IMAGES = """
mkdir a b clone bound tmp lower upper work over other
truncate -s 16M a.img; mkfs.ext4 -q -F a.img; cp a.img clone.img
truncate -s 16M b.img; mkfs.ext4 -q -F b.img
mount -o loop a.img a; mount -o loop b.img b; mount -o loop clone.img clone
mount --bind a bound
mount -t tmpfs none tmp; mount -t tmpfs none other
mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work none over
"""
COMPARE = """
from ferryfs.migration import identity
names = ["a", "b", "clone", "bound", "tmp", "other", "over"]
def all_of(host):
    return {name: identity.of_mounted(os.open(name, os.O_PATH), host) for name in names}
here, there, again = all_of(b"one"), all_of(b"two"), all_of(b"one")
show({
    "hosts": {f"{a} {b}": identity.same_directory(here[a], there[b]).sameness.name for a in names for b in names},
    "host": {f"{a} {b}": identity.same_directory(here[a], again[b]).sameness.name for a in names for b in names},
    "root handles equal": here["a"].handle == here["b"].handle,
    "overlay": [len(here["over"].handle) > 0, here["over"].openable],
    "mounts": [identity.make_handle(os.open(name, os.O_PATH)).mount_id for name in ("a", "bound")],
})
"""


@needs_mounts("mkfs.ext4")
def test_real_file_systems(tmp_path: Path) -> None:
    """Two fresh ext4 images, a block clone, a bind mount, tmpfs, overlayfs: as if on two hosts, and on one."""
    got = with_mounts(tmp_path, IMAGES, COMPARE)
    assert got["root handles equal"], "two fresh ext4 images are expected to have equal root handles"
    assert got["overlay"] == [True, False], "overlayfs is expected to give handles for comparing only"
    assert got["mounts"][0] != got["mounts"][1], "a bind mount has a mount id of its own"
    alike = {"a bound", "bound a"}
    clones = {"a clone", "clone a", "bound clone", "clone bound"}
    for pair, sameness in got["hosts"].items():
        first, second = pair.split()
        expected = "SAME" if first == second or pair in alike | clones else "DIFFERENT"
        assert sameness == expected, f"{pair} on two hosts"
    for pair, sameness in got["host"].items():
        first, second = pair.split()
        expected = "SAME" if first == second or pair in alike else "UNPROVEN" if pair in clones else "DIFFERENT"
        assert sameness == expected, f"{pair} on one host"
