"""The shared directory as a migration needs it: descriptors of the confined process, mounts in it, paths of open
files.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from ferryfs.errors import FerryError
from ferryfs.migration import _syscalls, identity, mountinfo
from ferryfs.migration.trailer_records import FileSystemIdentity
from ferryfs.values import frozen

# Paths are opened step by step within the share: neither a link nor ".." leads out of it.
INSIDE: Final = _syscalls.RESOLVE_BENEATH | _syscalls.RESOLVE_NO_SYMLINKS | _syscalls.RESOLVE_NO_MAGICLINKS
# Some facts about hidden files. On NFS, and on a FUSE file system of libfuse, removing the name of an open file renames
# it; the client removes it when the last one closes it. So the source's exit takes it away after a good migration. The
# same name on another file system is just a name. File system (f_type) -> how such names begin.
_HIDDEN: Final = {0x6969: b".nfs", 0x65735546: b".fuse_hidden"}
# What one call takes of a path; longer ones are opened in parts.
_PATH_PART_BYTES: Final = 4000


@frozen
class Share:
    """Descriptors that stay the caller's."""

    # O_PATH, the shared directory.
    root_fd: int
    # O_PATH, /proc/self/fd.
    proc_self_fd: int
    # Readable /proc/self/mountinfo, and what stands before each path in it that lies in the share. -1: not to be had.
    mountinfo_fd: int
    mountinfo_prefix: str
    # ``identity.boot_id()``, read before the sandbox closed.
    host: bytes

    def open(self, path: bytes, flags: int = os.O_PATH) -> int:
        """Opens a path from the root, of any length, within the share, not following a link. Raises OSError."""
        at = os.dup(self.root_fd)
        parts = split_path(path)
        try:
            for index, part in enumerate(parts):
                last = index == len(parts) - 1
                how = flags | os.O_NOFOLLOW if last else os.O_PATH | os.O_DIRECTORY
                below = _syscalls.openat2(at, part, how, INSIDE)
                os.close(at)
                at = below
        except OSError:
            os.close(at)
            raise
        return at

    def path_of(self, fd: int) -> bytes | None:
        """Where the kernel believes ``fd`` to be, relative to the root; None when that is not in the share.

        A belief: the name may have been taken by another file since, or may really end in " (deleted)".
        """
        root = os.readlink(str(self.root_fd).encode(), dir_fd=self.proc_self_fd).rstrip(b"/")
        path = os.readlink(str(fd).encode(), dir_fd=self.proc_self_fd)
        return path[len(root) + 1 :] if path.startswith(root + b"/") and len(path) > len(root) + 1 else None

    def reopen(self, fd: int, flags: int) -> int:
        """Opens what ``fd`` is once more. Raises OSError."""
        return os.open(str(fd).encode(), flags | os.O_CLOEXEC, dir_fd=self.proc_self_fd)

    def mounts(self) -> list[bytes]:
        """Paths of all mounts in the share that can be reached, b"." first. Empty when mountinfo can't be read."""
        if self.mountinfo_fd < 0:
            return [b"."]
        try:
            entries = mountinfo.read(self.mountinfo_fd)
            own = _syscalls.statx(self.root_fd, b"", _syscalls.AT_EMPTY_PATH, _syscalls.STATX_MNT_ID).mnt_id
        except (FerryError, OSError):
            return [b"."]
        prefix = os.fsencode(self.mountinfo_prefix) or b"/"
        paths = mountinfo.paths_in_share(entries, own, prefix)
        return [b".", *sorted(path for path in paths.values() if path != b".")]

    def mount_ids(self) -> set[int] | None:
        """The ids (statx) of all mounts that there are, reachable or not; None when that can't be told."""
        if self.mountinfo_fd < 0:
            return None
        try:
            return {entry.mount_id for entry in mountinfo.read(self.mountinfo_fd)}
        except (FerryError, OSError):
            return None

    def identity_of(self, fd: int) -> FileSystemIdentity | None:
        """The identity of an open directory or mounted file; None when it has none that can be told."""
        try:
            return identity.of_mounted(fd, self.host)
        except OSError:
            return None


def is_hidden(fd: int, name: bytes) -> bool:
    """Whether an inode of that name, on the file system of ``fd``, counts as unlinked. Raises OSError."""
    if not name.startswith(tuple(_HIDDEN.values())):
        return False
    prefix = _HIDDEN.get(_syscalls.file_system(fd)[0])
    return prefix is not None and name.startswith(prefix)


def split_path(path: bytes) -> list[bytes]:
    """A path in parts that one call takes each."""
    parts: list[bytes] = []
    for name in path.split(b"/"):
        if parts and len(parts[-1]) + 1 + len(name) <= _PATH_PART_BYTES:
            parts[-1] += b"/" + name
        else:
            parts.append(name)
    return parts


def reason_of(error: OSError) -> str:
    """An errno as the end of a sentence about a file."""
    known = {
        errno.ENOENT: "there is nothing under its name",
        errno.ESTALE: "it is gone from the file system",
        errno.EACCES: "the daemon has no permission",
        errno.EPERM: "the daemon lacks a capability (CAP_DAC_READ_SEARCH: --modcaps=+dac_read_search)",
        errno.ELOOP: "a symbolic link stands in its path",
        errno.EXDEV: "its path leaves the share",
        errno.ENFILE: "the daemon has no more file descriptors (--rlimit-nofile)",
        errno.EMFILE: "the daemon has no more file descriptors (--rlimit-nofile)",
    }
    return known.get(error.errno or 0, error.strerror or "unknown error")
