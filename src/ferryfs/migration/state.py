"""The migration state as plain data, and the one door through which it passes before anything is done with it.

The types are those of the stream that virtiofsd 1.11 to 1.14 write and read, field by field and in the stream's
order; see docs/state-format.md. Whatever comes from a stream is untrusted: any value of a field's type may stand in
these classes. Only what ``validate`` has seen may be acted upon.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Final, TypeAlias

from ferryfs.errors import StateError
from ferryfs.values import frozen

# FUSE_ROOT_ID: the guest's name for the share's root, in every mount.
ROOT_ID: Final = 1
# MAX_HANDLE_SZ of the kernel: name_to_handle_at(2) never makes a longer one, open_by_handle_at(2) takes none.
MAX_FILE_HANDLE_BYTES: Final = 128
# PATH_MAX less its NUL: the kernel looks up no longer name in one call. (NAME_MAX is 255, but vfat and others have
# longer ones.)
MAX_NAME_BYTES: Final = 4095
# How many wrong things one error text lists before it only counts.
MAX_LISTED: Final = 3


@frozen
class FileHandle:
    """A file handle as name_to_handle_at(2) gives it."""

    # The mount's id on the source host. Means nothing on another host, except as a key of ``StateV2.mount_paths``;
    # left out of every comparison.
    mount_id: int
    # The kernel's ``handle_type``, to be given back as it is.
    handle_type: int
    # ``f_handle``: at most MAX_FILE_HANDLE_BYTES.
    handle: bytes


@frozen
class RootNode:
    """The share's root. The destination opens its own shared directory for it, never one that the stream names."""


@frozen
class Path:
    """An entry of a directory that is in the state too.

    The destination opens ``filename`` in the parent, not following a symbolic link, and then drops one reference of the
    parent, which the parent's ``refcount`` includes; it drops it also when the child can't be had.
    """

    parent: int
    # One name: no '/', no NUL, not empty, not '.' or '..'.
    filename: str


@frozen
class Invalid:
    """The source could not tell where the inode is. The destination has lost it: ``--migration-on-error`` decides."""


@frozen
class FullPath:
    """A path from the share's root. Holds no reference on any parent. The destination must not leave the share."""

    # Relative; no '.', '..' or empty component, no NUL.
    filename: str


@frozen
class ByHandle:
    """A file handle to open. The destination finds the mount by ``StateV2.mount_paths``; an unknown mount loses the
    inode.
    """

    handle: FileHandle


Location: TypeAlias = RootNode | Path | Invalid | FullPath | ByHandle


@frozen
class Inode:
    """One inode that the guest knows, or that serves as the parent of one."""

    # The FUSE nodeid. Restored as it is: the guest goes on using it. Never 0; 1 is the root and nothing else.
    id: int
    # Lookups that the guest has not forgotten yet, plus one for each inode whose ``Path`` names this one as parent. The
    # destination takes the number over and then drops the parents' share of it. The root's own part is 2.
    refcount: int
    location: Location
    # For comparison with the destination's inode only, never for opening; without mount_id. A root that differs ends
    # the migration whatever --migration-on-error says; of FullPath and ByHandle inodes it is not looked at.
    file_handle: FileHandle | None


@frozen
class Handle:
    """One open file or directory: an ``OpenInode`` source, the only kind there is."""

    # The FUSE fh. Restored as it is.
    id: int
    # The inode that is open; it must be in the state.
    inode: int
    # open(2) flags to open it with again, those in force at the time of saving. O_CREAT, O_EXCL and O_TRUNC don't
    # belong here; the destination takes them off before it opens anything.
    flags: int


@frozen
class Options:
    """What the guest's FUSE_INIT negotiated. The destination refuses what it was not started with."""

    writeback: bool
    announce_submounts: bool
    posix_acl: bool
    # FUSE_CREATE_SUPP_GROUP: requests that create something carry the caller's group.
    sup_group_extension: bool


@frozen
class StateV1:
    """Version 1: everything but file handles to open."""

    # In any order; empty when the guest has not mounted the share.
    inodes: Sequence[Inode]
    # The nodeid that the next new inode gets: above every id in ``inodes``.
    next_inode: int
    # In any order.
    handles: tuple[Handle, ...]
    # The fh that the next open gets: above every id in ``handles``.
    next_handle: int
    options: Options


@frozen
class MountPath:
    """Where a mount of the source lies in the share."""

    mount_id: int
    # Relative to the share's root; "." for the mount that the root itself is on.
    path: str


@frozen
class StateV2:
    """Version 2: version 1 and the mounts that ``ByHandle`` locations refer to."""

    v1: StateV1
    # In any order, each mount once. Opened by the destination, below its root, to open handles on them.
    mount_paths: tuple[MountPath, ...]


State: TypeAlias = StateV1 | StateV2


def body(state: State) -> StateV1:
    """What both versions have."""
    return state.v1 if isinstance(state, StateV2) else state


def mount_paths(state: State) -> tuple[MountPath, ...]:
    """The map of version 2; nothing in version 1."""
    return state.mount_paths if isinstance(state, StateV2) else ()


def validate(state: State) -> State:
    """Gives ``state`` back when it may be acted upon, else raises StateError with all that is wrong (the first few of
    a kind).

    Linear in the number of records. What is merely strange passes.
    """
    found = _Findings()
    v1 = body(state)
    inodes: dict[int, Inode] = {}
    for inode in v1.inodes:
        if inode.id in inodes:
            found.add("two inodes have the same number", str(inode.id))
        inodes[inode.id] = inode
        _check_inode(inode, found)
    if v1.inodes and ROOT_ID not in inodes:
        found.add("there are inodes but no root", "number 1 is missing")
    _check_tree(inodes, v1, found)
    _check_rest(state, inodes, max(inodes, default=0), found)
    found.raise_if_any()
    return state


def validate_behind(state: State, inodes: Container[object], largest: int) -> State:
    """As ``validate``, for a state whose inodes ``bulk`` has checked: their numbers, and the largest of them."""
    found = _Findings()
    _check_rest(state, inodes, largest, found)
    found.raise_if_any()
    return state


def _check_rest(state: State, inodes: Container[object], largest: int, found: _Findings) -> None:
    v1 = body(state)
    if v1.inodes and v1.next_inode <= largest:
        found.add("the next inode number is in use", f"{v1.next_inode}, but there is an inode {largest}")
    _check_handles(v1, inodes, found)
    mounts: set[int] = set()
    for mount in mount_paths(state):
        if mount.mount_id in mounts:
            found.add("a mount has two paths", str(mount.mount_id))
        mounts.add(mount.mount_id)
        if mount.path != ".":
            fault = path_fault(mount.path)
            if fault:
                found.add(f"the path of a mount {fault}", f"{mount.mount_id}: {mount.path!r}")


def name_fault(name: str | bytes) -> str:
    """Why ``name`` can't be the name of a directory entry; empty when it can."""
    raw = name.encode("utf-8", "surrogatepass") if isinstance(name, str) else name
    if not raw:
        return "is empty"
    if raw in (b".", b".."):
        return "is a directory's name for itself or its parent"
    if b"/" in raw:
        return "contains a '/'"
    if b"\0" in raw:
        return "contains a NUL"
    if len(raw) > MAX_NAME_BYTES:
        return f"is longer than {MAX_NAME_BYTES} bytes"
    return ""


def path_fault(path: str | bytes) -> str:
    """Why ``path`` can't be a path below the share's root; empty when it can."""
    raw = path.encode("utf-8", "surrogatepass") if isinstance(path, str) else path
    if not raw:
        return "is empty"
    if raw.startswith(b"/"):
        return "is absolute"
    for component in raw.split(b"/"):
        fault = name_fault(component)
        if fault:
            return f"has a component that {fault}"
    return ""


class _Findings:
    """Faults by kind, so that a stream with a million of them still makes one readable error."""

    def __init__(self) -> None:
        self._listed: dict[str, list[str]] = {}
        self._count: dict[str, int] = {}

    def add(self, kind: str, which: str) -> None:
        listed = self._listed.setdefault(kind, [])
        if len(listed) < MAX_LISTED:
            listed.append(which if len(which) <= 80 else which[:77] + "...")
        self._count[kind] = self._count.get(kind, 0) + 1

    def raise_if_any(self) -> None:
        texts = []
        for kind, listed in self._listed.items():
            more = self._count[kind] - len(listed)
            texts.append(f"{kind} ({', '.join(listed)}{f' and {more} more' if more else ''})")
        if texts:
            raise StateError("the migration state can't be loaded: " + "; ".join(texts))


def _check_inode(inode: Inode, found: _Findings) -> None:
    location = inode.location
    is_root = isinstance(location, RootNode)
    if inode.id == 0:
        found.add("an inode has the number 0", "FUSE numbers begin at 1")
    elif is_root != (inode.id == ROOT_ID):
        found.add("the root must be number 1, and number 1 the root", f"inode {inode.id} is {type(location).__name__}")
    if isinstance(location, Path):
        fault = name_fault(location.filename)
        if fault:
            found.add(f"a file name {fault}", f"inode {inode.id}: {location.filename!r}")
    elif isinstance(location, FullPath):
        fault = path_fault(location.filename)
        if fault:
            found.add(f"a path {fault}", f"inode {inode.id}: {location.filename!r}")
    elif isinstance(location, ByHandle):
        _check_file_handle(inode.id, location.handle, found)
    if inode.file_handle is not None:
        _check_file_handle(inode.id, inode.file_handle, found)


def _check_file_handle(inode: int, handle: FileHandle, found: _Findings) -> None:
    if len(handle.handle) > MAX_FILE_HANDLE_BYTES:
        found.add(f"a file handle is longer than {MAX_FILE_HANDLE_BYTES} bytes", f"inode {inode}: {len(handle.handle)}")


def _check_tree(inodes: dict[int, Inode], v1: StateV1, found: _Findings) -> None:
    """Parents exist, lead to an inode without a parent, and count their children; new numbers are above the used
    ones.
    """
    children: dict[int, int] = {}
    for inode in v1.inodes:
        if isinstance(inode.location, Path):
            parent = inode.location.parent
            children[parent] = children.get(parent, 0) + 1
            if parent not in inodes:
                found.add("a parent is missing", f"inode {inode.id} is in {parent}")
    for parent, count in children.items():
        if parent in inodes and inodes[parent].refcount < count:
            found.add("a parent counts fewer references than it has children", f"inode {parent}")
    # Every inode has one parent at most, so one walk upwards from each, which stops at what was seen before, is linear.
    settled: set[int] = set()
    for start in inodes:
        trail: list[int] = []
        on_trail: set[int] = set()
        at: int | None = start
        while at is not None and at not in settled and at not in on_trail:
            trail.append(at)
            on_trail.add(at)
            location = inodes[at].location if at in inodes else None
            at = location.parent if isinstance(location, Path) else None
        if at in on_trail:
            found.add("directories contain each other in a loop", f"inode {at}")
        settled.update(trail)


def _check_handles(v1: StateV1, inodes: Container[object], found: _Findings) -> None:
    seen: set[int] = set()
    for handle in v1.handles:
        if handle.id in seen:
            found.add("two open files have the same number", str(handle.id))
        seen.add(handle.id)
        if handle.inode not in inodes:
            found.add("an open file is of an inode that is missing", f"handle {handle.id} of inode {handle.inode}")
    if seen and v1.next_handle <= max(seen):
        found.add("the next handle number is in use", f"{v1.next_handle}, but there is a handle {max(seen)}")
