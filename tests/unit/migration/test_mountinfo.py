"""mountinfo: odd lines, nested, hidden and over-mounted mounts; and what the kernel really says about bind mounts."""

from __future__ import annotations

from pathlib import Path

import pytest
from namespaces import needs_mounts, with_mounts

from ferryfs.errors import SetupError
from ferryfs.migration.mountinfo import MountEntry, parse, paths_in_share


def mount(mount_id: int, parent_id: int, point: str) -> MountEntry:
    return MountEntry(mount_id, parent_id, 0, mount_id, b"/", point.encode(), b"tmpfs", b"none")


def test_a_line() -> None:
    """Escapes, optional tags, any number of them, and none."""
    line = (
        rb"36 35 98:0 /a\134b /mnt\040x\011\012 rw,noatime shared:1 master:2 - fuse.s\040x dev\040- rw,errors=continue"
    )
    assert parse(line + b"\n") == [MountEntry(36, 35, 98, 0, b"/a\\b", b"/mnt x\t\n", b"fuse.s x", b"dev -")]
    assert parse(b"1 1 0:1 / / rw - rootfs none rw\n") == [MountEntry(1, 1, 0, 1, b"/", b"/", b"rootfs", b"none")]
    # The kernel escapes no carriage return.
    assert parse(b"1 1 0:1 / /a\rb rw - tmpfs none rw\n")[0].mount_point == b"/a\rb"
    assert parse(b"") == []


@pytest.mark.parametrize(
    "line", [b"36", b"a b c d e f - g h", b"1 1 0:1 / / rw", b"1 1 01 / / rw - a b", b"- - - - - - -"]
)
def test_a_line_that_is_none(line: bytes) -> None:
    """An error that shows the line."""
    with pytest.raises(SetupError, match="not understood"):
        parse(line)


TABLE: list[tuple[str, list[MountEntry], int, bytes, dict[int, bytes]]] = [
    ("share inside a mount", [mount(1, 0, "/"), mount(2, 1, "/srv/s/m")], 1, b"/srv/s", {1: b".", 2: b"m"}),
    ("share is the root", [mount(1, 0, "/"), mount(2, 1, "/m")], 1, b"/", {1: b".", 2: b"m"}),
    ("only a name's beginning is equal", [mount(1, 0, "/"), mount(2, 1, "/srv/s2/m")], 1, b"/srv/s", {1: b"."}),
    ("nested", [mount(1, 0, "/"), mount(3, 2, "/s/a/b"), mount(2, 1, "/s/a")], 1, b"/s", {1: b".", 2: b"a", 3: b"a/b"}),
    ("mounted over", [mount(1, 0, "/"), mount(2, 1, "/s/a"), mount(3, 2, "/s/a")], 1, b"/s", {1: b".", 3: b"a"}),
    (
        "what was in the one mounted over",
        [mount(1, 0, "/"), mount(2, 1, "/s/a"), mount(4, 2, "/s/a/b"), mount(3, 2, "/s/a")],
        1,
        b"/s",
        {1: b".", 3: b"a"},
    ),
    (
        "hidden by a mount on a directory above",
        [mount(1, 0, "/"), mount(2, 1, "/s/a/b/c"), mount(3, 1, "/s/a"), mount(5, 2, "/s/a/b/c/d")],
        1,
        b"/s",
        {1: b".", 3: b"a"},
    ),
    (
        "the share itself mounted over",
        [mount(1, 0, "/"), mount(2, 1, "/s"), mount(3, 1, "/s/m")],
        1,
        b"/s",
        {1: b".", 3: b"m"},
    ),
    ("another mount's parent", [mount(1, 0, "/"), mount(2, 9, "/s/a")], 1, b"/s", {1: b"."}),
    ("a loop of parents", [mount(1, 2, "/s/a"), mount(2, 1, "/s/a/b")], 1, b"/s", {1: b".", 2: b"a/b"}),
]


@pytest.mark.parametrize(("what", "entries", "share", "path", "expected"), TABLE, ids=[row[0] for row in TABLE])
def test_paths(what: str, entries: list[MountEntry], share: int, path: bytes, expected: dict[int, bytes]) -> None:
    """Only what a path leads to has one, in whatever order the mounts are listed."""
    for listed in (entries, list(reversed(entries))):
        assert expected == paths_in_share(listed, share, path), what


@needs_mounts()
def test_real_mounts(tmp_path: Path) -> None:
    """Each path leads to the mount that it is said to lead to, and every reachable mount is there."""
    got = with_mounts(
        tmp_path,
        r"""
        mkdir -p share/a/b "share/od d\\x" share/deep/x/y src/in outside
        touch share/file src/file
        mount --bind src share/a
        mount -t tmpfs none share/a/in
        mount --bind src "share/od d\\x"
        mount --bind src/file share/file
        mount -t tmpfs none share/deep/x/y
        mount -t tmpfs none share/deep
        mount -t tmpfs none outside
        mount -t tmpfs none share/a/in
        """,
        """
from ferryfs.migration import _syscalls, mountinfo
share = os.open("share", os.O_PATH)
def mount_of(fd):
    return _syscalls.statx(fd, b"", _syscalls.AT_EMPTY_PATH, _syscalls.STATX_MNT_ID).mnt_id
entries = mountinfo.read(os.open("/proc/self/mountinfo", os.O_RDONLY))
found = mountinfo.paths_in_share(entries, mount_of(share), os.readlink(b"/proc/self/fd/%d" % share))
show({
    "paths": sorted(os.fsdecode(path) for path in found.values()),
    "wrong": [os.fsdecode(path) for mount, path in found.items() if mount_of(os.open(path, os.O_PATH, dir_fd=share)) !=
    mount],
})
""",
    )
    assert got["wrong"] == []
    assert got["paths"] == [".", "a", "a/in", "deep", "file", "od d\\x"]
