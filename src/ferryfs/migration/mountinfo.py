"""Which mounts lie in the share, and where: /proc/self/mountinfo as values.

Some facts about mountinfo. A line is ``id parent major:minor root mount-point options [tag...] - type source
super-options``. Space, tab, newline and backslash in names are octal escapes (``\\040``). Mount points are as seen
from the process's root directory: behind a pivot_root or chroot into the share they begin at the share. A mount may be
there and yet be out of reach: another one may be mounted on top of it, or on a directory above its mount point. A path
then leads to the upper one, so a map from mounts to paths must leave the lower one out.
"""

from __future__ import annotations

import os
import re

from ferryfs.errors import SetupError
from ferryfs.values import frozen

_ESCAPE = re.compile(rb"\\([0-7]{3})")
_READ_BYTES = 1 << 16


@frozen
class MountEntry:
    """One line of mountinfo."""

    mount_id: int
    parent_id: int
    # Of its files' st_dev.
    major: int
    minor: int
    # The directory of the file system that is mounted: b"/" unless it is a bind mount of a part.
    root: bytes
    mount_point: bytes
    fs_type: bytes
    source: bytes


def read(fd: int) -> list[MountEntry]:
    """All mounts, from an open mountinfo; ``fd`` is read from its beginning, whatever its position."""
    data = bytearray()
    while chunk := os.pread(fd, _READ_BYTES, len(data)):
        data += chunk
    return parse(bytes(data))


def parse(data: bytes) -> list[MountEntry]:
    """The lines of a mountinfo. Raises SetupError for a line that is none."""
    return [_parse_line(line) for line in data.split(b"\n") if line]


def _parse_line(line: bytes) -> MountEntry:
    fields = line.split(b" ")
    try:
        dash = fields.index(b"-", 6)
        major, minor = fields[2].split(b":")
        return MountEntry(
            mount_id=int(fields[0]),
            parent_id=int(fields[1]),
            major=int(major),
            minor=int(minor),
            root=_unescape(fields[3]),
            mount_point=_unescape(fields[4]),
            fs_type=_unescape(fields[dash + 1]),
            source=_unescape(fields[dash + 2]),
        )
    except (ValueError, IndexError):
        raise SetupError(f"/proc/self/mountinfo has a line that is not understood: {line!r}") from None


def _unescape(field: bytes) -> bytes:
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field)


def paths_in_share(entries: list[MountEntry], share_mount: int, share_path: bytes) -> dict[int, bytes]:
    """Path within the share, relative to its root, of every mount that a path from there reaches; b"." for the share's
    own.

    ``share_mount`` is the mount id of the share's root (statx), ``share_path`` its absolute path as the process sees
    it.
    """
    children: dict[int, list[MountEntry]] = {}
    for entry in entries:
        if entry.mount_id != entry.parent_id:
            children.setdefault(entry.parent_id, []).append(entry)
    root = share_path.rstrip(b"/")
    inside = root + b"/"
    found = {share_mount: b"."}
    covered: set[int] = set()
    waiting = [(share_mount, root or b"/")]
    while waiting:
        mount, entry_path = waiting.pop()
        # A mount on the share's root itself hides nothing from us: our paths begin at a fd, beneath it.
        covering = {child.mount_point for child in children.get(mount, ())}
        if mount == share_mount:
            covering.discard(entry_path)
        elif entry_path in covering:
            covered.add(mount)
        for child in children.get(mount, ()):
            if not child.mount_point.startswith(inside) or child.mount_id in found:
                continue
            if not any(above in covering for above in _ancestors(child.mount_point, entry_path)):
                found[child.mount_id] = child.mount_point[len(inside) :]
                waiting.append((child.mount_id, child.mount_point))
    return {mount: path for mount, path in found.items() if mount not in covered}


def _ancestors(path: bytes, down_to: bytes) -> list[bytes]:
    """The directories above ``path``, from its parent to ``down_to``, both included."""
    above = []
    while len(path) > len(down_to) and path != b"/":
        path = path.rpartition(b"/")[0] or b"/"
        above.append(path)
    return above
