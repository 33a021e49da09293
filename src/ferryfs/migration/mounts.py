"""The source's mounts in the share, as the destination finds them: here and the same, here and another, or missing.

Some facts about missing mounts. Where a mount was, a directory lies beneath it, with other files: a path that leads
through its mount point finds those. So inodes of a missing mount are lost, whatever lies under their names, and the
name of the mount point itself must not show the directory beneath to a guest that still uses the mount. In the source's
own directory another file system on the mount point is no better: its files have nothing to do with the guest's, of
whatever type and size they are. In a copy each mount is another one, and counts as a copy like the rest.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence

from ferryfs.migration import _syscalls, identity
from ferryfs.migration.carried import Carried
from ferryfs.migration.identity import Sameness, Verdict
from ferryfs.migration.share import Share, reason_of
from ferryfs.migration.state import ROOT_ID, Inode
from ferryfs.migration.trailer_records import FileSystemIdentity, Mounts
from ferryfs.migration.wanted import places
from ferryfs.values import field, mutable

_LOG = logging.getLogger("ferryfs.migration")


@mutable
class MountsHere:
    """What became of the mounts of a trailer; an index is a place in its Mounts, 0 the share's own mount."""

    # Indices of those that are proven to be the source's own file systems: their file handles count.
    same: set[int] = field(default_factory=set)
    # Those of them that no block clone can be taken for.
    firm: set[int] = field(default_factory=set)
    # Index -> mount id here, of the same ones.
    ids: dict[int, int] = field(default_factory=dict)
    # Index -> path, of all that something is mounted at here, the same or not.
    paths: dict[int, bytes] = field(default_factory=dict)
    # Path -> why it can't be used, of those that are missing.
    missing: dict[bytes, str] = field(default_factory=dict)
    # The source's mount id -> why its file handles can't be used, of those that are another file system here.
    other: dict[int, str] = field(default_factory=dict)
    # The next three are of the source's own directory. Index -> why its inodes are lost, of those that are missing or
    # another file system here.
    lost: dict[int, str] = field(default_factory=dict)
    # Index -> what differs, of the latter.
    differs: dict[int, str] = field(default_factory=dict)
    # Index -> what is said of it, of those of which nothing tells whether they are the source's.
    unproven: dict[int, str] = field(default_factory=dict)

    def lost_identities(self, listed: Mounts | None, roots: Mapping[int, str]) -> dict[int, FileSystemIdentity]:
        """Of the lost ones, by their roots (nodeid -> why, as ``roots`` gives them)."""
        by_why = {why: listed.mounts[index].identity for index, why in self.lost.items()} if listed else {}
        return {number: by_why[why] for number, why in roots.items() if why in by_why}


def look(share: Share, listed: Mounts | None, root_is_same: bool, compare: bool) -> MountsHere:
    """Looks for each mount that the source names. ``compare``: whether it matters which file system it is."""
    found = MountsHere()
    if root_is_same:
        found.same.add(0)
        found.ids[0] = mount_id(share.root_fd)
    for index, mount in enumerate(listed.mounts if listed else ()):
        if index == 0:
            continue
        name = os.fsdecode(mount.path)
        try:
            fd = share.open(mount.path)
        except OSError as error:
            found.missing[mount.path] = f"the mount at {name!r} is not here: {reason_of(error)}"
            continue
        try:
            if not _is_mount_point(share, mount.path, fd):
                found.missing[mount.path] = f"nothing is mounted at {name!r} here"
                continue
            found.paths[index] = mount.path
            verdict = identity.same_directory(mount.identity, share.identity_of(fd))
            if verdict.sameness is Sameness.SAME:
                found.same.add(index)
                if verdict.firm:
                    found.firm.add(index)
                found.ids[index] = mount_id(fd)
                continue
            said = _another(verdict, mount.path)
            if not verdict.handles:
                found.other[mount.mount_id] = said
            if root_is_same and compare and verdict.sameness is Sameness.DIFFERENT:
                found.missing[mount.path] = found.differs[index] = said
            elif root_is_same and compare:
                found.unproven[index] = said
        finally:
            os.close(fd)
    if root_is_same:
        paths = {mount.path: index for index, mount in enumerate(listed.mounts if listed else ())}
        found.lost = {paths[path]: why for path, why in found.missing.items()}
    return found


def doubted(found: MountsHere, inodes: Sequence[Inode], carried: Carried) -> dict[int, str]:
    """Mounts in the source's own directory that are others here, or may be, where the guest uses them: index -> why."""
    doubts = {**found.unproven, **found.differs}
    if not doubts or carried.mounts is None:
        return {}
    listed = carried.mounts.mounts
    # A file system without file handles is known by the place of its root alone.
    handleless = {listed[index].path: why for index, why in doubts.items() if not listed[index].identity.handle}
    held = set(roots(handleless, places(inodes, carried)).values()) if handleless else set()
    used = carried.identities.mounts()
    return {index: why for index, why in doubts.items() if index in used or why in held}


def root_fault(
    share: Share, parent_fd: int, name: bytes, fd: int, expected: FileSystemIdentity | None, proven: bool
) -> str:
    """Why ``fd``, which was found in a directory, is not the root of the mount that it should be; else empty.

    ``expected``: which mount, as far as that matters; ``proven``: a doubt is too much. Raises OSError.
    """
    if mount_id(fd) == mount_id(parent_fd):
        return f"nothing is mounted at {os.fsdecode(name)!r} here"
    if expected is None:
        return ""
    verdict = identity.same_directory(expected, share.identity_of(fd))
    if verdict.sameness is Sameness.SAME:
        return ""
    said = _another(verdict, name)
    if verdict.sameness is Sameness.DIFFERENT or proven:
        return said
    _LOG.warning("Migration: types and sizes are compared as in a copy, because %s.", said)
    return ""


def _another(verdict: Verdict, path: bytes) -> str:
    maybe = "" if verdict.sameness is Sameness.DIFFERENT else "maybe "
    return f"{maybe}another file system is mounted at {os.fsdecode(path)!r} here: {verdict.reason}"


def mount_id(fd: int) -> int:
    """The id of the mount that an open file is on, as name_to_handle_at gives it. Raises OSError."""
    return _syscalls.statx(fd, b"", _syscalls.AT_EMPTY_PATH, _syscalls.STATX_MNT_ID).mnt_id


def _is_mount_point(share: Share, path: bytes, fd: int) -> bool:
    folder = path.rpartition(b"/")[0]
    above = share.open(folder) if folder else os.dup(share.root_fd)
    try:
        return mount_id(fd) != mount_id(above)
    finally:
        os.close(above)


def roots(paths: Mapping[bytes, str], places: Iterable[tuple[int, int, bytes]]) -> dict[int, str]:
    """Which inodes lie at ``paths`` (path -> reason): nodeid -> reason.

    ``places``: (nodeid, parent, name) of all inodes; with parent 0 the name is a path from the root.
    """
    parts = {part for path in paths for part in path.split(b"/")}
    by_name: dict[tuple[int, bytes], int] = {}
    by_path: dict[bytes, int] = {}
    for number, parent, name in places:
        if not parent:
            by_path[name] = number
        elif name in parts:
            by_name[parent, name] = number
    found: dict[int, str] = {}
    for path, why in paths.items():
        at = ROOT_ID
        for part in path.split(b"/"):
            at = by_name.get((at, part), 0)
        at = at or by_path.get(path, 0)
        if at:
            found[at] = why
    return found
