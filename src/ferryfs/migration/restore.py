"""The destination's part of a migration: from a stream to live tables, or to one clear refusal.

Order: the state's own faults, the negotiated options, the root's identity, the inodes from the root downwards, what
could not be found by a search, the open files. A directory that can't be had takes what is in it along, unless the
search finds that.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import stat
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from ferryfs.errors import StateError
from ferryfs.migration import _syscalls, bulk, identity, stream, unlinked
from ferryfs.migration.collect.walk import walk
from ferryfs.migration.identity import Sameness
from ferryfs.migration.live_destination import LiveDestination
from ferryfs.migration.options import INIT_FLAG_SWITCHES, STATE_OPTION_FLAGS, STATE_OPTIONS, missing_switch
from ferryfs.migration.share import Share, reason_of
from ferryfs.migration.state import ROOT_ID, ByHandle, FullPath, Handle, Inode, Path, body, mount_paths
from ferryfs.migration.trailer_identities import InodeIdentities
from ferryfs.migration.trailer_records import (
    Content,
    HalfRead,
    Lost,
    LostInodes,
    Mounts,
    Name,
    Names,
    Negotiated,
    Record,
    Unlinked,
)
from ferryfs.migration.verify import Expected, Identities, same_file, same_kind
from ferryfs.passthrough.config import IdentityCheck, MigrationConfig, OnError

_LOG = logging.getLogger("ferryfs.migration")

# What a guest gets for a file that is not the one it had, or that could not be found.
LOST_ERRNO: Final = errno.EIO
_NOT_REOPENED: Final = os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NOCTTY
# Session values of a guest that came from virtiofsd, whose stream does not have them: the least that it can have
# agreed to.
OLDEST_MINOR: Final = 31
DEFAULT_MAX_WRITE: Final = 1 << 20
DEFAULT_READAHEAD: Final = 1 << 17
LOGGED: Final = 1000


@dataclass(slots=True)
class _Wanted:
    """One inode that is to be restored."""

    inode: Inode
    lookups: int
    # Where it should be; parent 0: ``name`` is a path from the root, or there is none.
    parent: int = 0
    name: bytes = b""
    error: OSError | None = None
    why: str = ""


@dataclass
class _Carried:
    """What the trailer brought, by inode or handle."""

    identities: Identities
    mounts: Mounts | None = None
    negotiated: Negotiated | None = None
    unlinked: dict[int, Unlinked] = field(default_factory=dict)
    contents: dict[int, list[Content]] = field(default_factory=dict)
    half_read: dict[int, HalfRead] = field(default_factory=dict)
    names: dict[int, Name] = field(default_factory=dict)
    lost: dict[int, Lost] = field(default_factory=dict)


class Restore:
    """One load into one device. ``run`` once."""

    def __init__(self, live: LiveDestination, config: MigrationConfig, share: Share, options: frozenset[str]) -> None:
        """``options``: long names of the switches that this daemon was started with."""
        self._live = live
        self._config = config
        self._share = share
        self._options = options
        self._failures: list[str] = []
        self._same = False
        self._compare = False
        self._kinds: dict[int, int] = {}
        self._mount_fds: dict[int, int] = {}

    def run(self, data: bytes | bytearray | memoryview) -> None:
        """Loads a stream. Raises StateError with the reason; then nothing of it stays behind."""
        collecting = gc.isenabled()
        # A million new objects, none of them garbage: looking through them again and again takes longer than making
        # them.
        gc.disable()
        try:
            self._run(data)
        finally:
            if collecting:
                gc.enable()

    def _run(self, data: bytes | bytearray | memoryview) -> None:
        started = time.monotonic()
        found = stream.load(data)
        carried = _sort(found.trailer.records if found.trailer else ())
        self._live.clear()
        try:
            self._check_options(found, carried)
            if body(found.state).inodes:
                self._check_root(found, carried)
                self._restore_all(found, carried)
            self._finish(found, carried)
        except BaseException:
            self._live.clear()
            raise
        finally:
            for fd in self._mount_fds.values():
                os.close(fd)
        _LOG.info(
            "Migration: %d inodes and %d open files restored in %.0f ms.",
            len(body(found.state).inodes),
            len(body(found.state).handles),
            1000 * (time.monotonic() - started),
        )

    # ---- what must hold before anything is opened
    # ------------------------------------------------------------------------

    def _check_options(self, found: stream.Stream, carried: _Carried) -> None:
        options = body(found.state).options
        for name, switch in STATE_OPTIONS.items():
            if getattr(options, name) and switch not in self._options:
                raise StateError(missing_switch(switch))
        if carried.negotiated is not None:
            granted = self._live.settings()
            for flag, switch in INIT_FLAG_SWITCHES.items():
                if carried.negotiated.flags & flag and not granted & flag:
                    raise StateError(missing_switch(switch))
            for switch in carried.negotiated.options:
                if switch not in self._options:
                    raise StateError(missing_switch(switch))

    def _check_root(self, found: stream.Stream, carried: _Carried) -> None:
        """Whether it is the source's directory, and so how files are compared."""
        here = self._share.identity_of(self._share.root_fd)
        inodes = body(found.state).inodes
        if isinstance(inodes, bulk.Records):
            root, by_handle = inodes.get(ROOT_ID), inodes.by_handle
        else:
            root = next(inode for inode in inodes if inode.id == ROOT_ID)
            by_handle = any(isinstance(inode.location, ByHandle) for inode in inodes)
        assert root is not None, "a state with inodes was let through without a root"
        check = self._config.identity
        if root.file_handle is not None:
            made = identity.make_handle(self._share.root_fd)
            if made is None or (made.handle_type, made.handle) != (
                root.file_handle.handle_type,
                root.file_handle.handle,
            ):
                raise StateError("the shared directory is not the source's: its file handle is another one")
        source = carried.mounts.mounts[0].identity if carried.mounts and carried.mounts.mounts else None
        if source is None or here is None:
            if check is IdentityCheck.REQUIRE:
                raise StateError(
                    "--migration-identity=require: the stream does not say which directory the source shared"
                )
            if root.file_handle is None:
                _LOG.warning("Migration: nothing in the stream proves that the source shared this directory.")
            self._same = root.file_handle is not None
            self._compare = False
            return
        verdict = identity.same_directory(source, here)
        self._same = verdict.sameness is Sameness.SAME
        self._compare = check is not IdentityCheck.OFF
        if not self._same and check is IdentityCheck.REQUIRE:
            raise StateError(
                f"--migration-identity=require: the shared directory is {verdict.sameness.value}: {verdict.reason}"
            )
        if by_handle and verdict.sameness is Sameness.DIFFERENT:
            raise StateError(
                "the source sent file handles (--migration-mode=file-handles), and the shared directory is another "
                f"one: {verdict.reason}"
            )
        if not self._same:
            _LOG.info("Migration: the shared directory counts as a copy of the source's: %s.", verdict.reason)

    # ---- inodes
    # ----------------------------------------------------------------------------------------------------------

    def _restore_all(self, found: stream.Stream, carried: _Carried) -> None:
        v1 = body(found.state)
        self._open_mounts(found)
        self._kinds[ROOT_ID] = stat.S_IFDIR >> 12
        todo = self._fast(v1.inodes, carried) if isinstance(v1.inodes, bulk.Records) else _counted(v1.inodes)
        missing_numbers = {inode.id for inode, _ in todo}
        below: dict[int, list[_Wanted]] = {}
        waiting: deque[_Wanted] = deque()
        for inode, children in todo:
            wanted = self._wanted(inode, inode.refcount - children, carried)
            if wanted.parent in missing_numbers:
                below.setdefault(wanted.parent, []).append(wanted)
            else:
                waiting.append(wanted)
        missing = self._downwards(waiting, below, carried)
        if missing and self._same and carried.identities:
            missing = self._search(missing, below, carried)
        self._copy_check(missing, carried)
        self._lose(missing, below, carried)
        self._restore_trailer_only(carried)
        for handle in v1.handles:
            self._reopen(handle, carried)
        self._report()

    def _fast(self, records: bulk.Records, carried: _Carried) -> list[tuple[Inode, int]]:
        """Restores what is where it should be, without an object an inode; what is left, with the number of its
        children.
        """
        for number in (*carried.unlinked, *carried.names, *carried.lost):
            records.leave(number)
        if self._compare:
            records.expect(carried.identities.columns())
        self._live.restore_records(records, self._compare, self._same, self._mount_fds)
        return [(records[index], records.children(index)) for index in records.left()]

    def _wanted(self, inode: Inode, lookups: int, carried: _Carried) -> _Wanted:
        match inode.location:
            case Path(parent, filename):
                return _Wanted(inode, lookups, parent, filename.encode())
            case FullPath(filename):
                return _Wanted(inode, lookups, 0, filename.encode())
            case _:
                name = carried.names.get(inode.id)
                return _Wanted(inode, lookups, name.parent, name.name) if name else _Wanted(inode, lookups)

    def _downwards(self, waiting: deque[_Wanted], below: dict[int, list[_Wanted]], carried: _Carried) -> list[_Wanted]:
        """Restores what is where it should be, parents first; what is not."""
        missing = []
        parent_number, parent_fd = -1, -1
        try:
            while waiting:
                wanted = waiting.popleft()
                try:
                    if wanted.parent and wanted.parent != parent_number:
                        if parent_fd >= 0:
                            os.close(parent_fd)
                            parent_fd = -1
                        parent_number = wanted.parent
                        parent_fd = self._live.open_path(parent_number)
                    fd = self._open(wanted, parent_fd, carried)
                    self._file(wanted, fd, self._expected_handle(wanted, carried))
                except OSError as error:
                    wanted.error = error
                    missing.append(wanted)
                    if wanted.parent and parent_fd < 0:
                        parent_number = -1
                else:
                    waiting.extend(below.pop(wanted.inode.id, ()))
        finally:
            if parent_fd >= 0:
                os.close(parent_fd)
        return missing

    def _open(self, wanted: _Wanted, parent_fd: int, carried: _Carried) -> int:
        """An O_PATH fd of the inode, proven to be it as far as it can be. Raises OSError."""
        inode = wanted.inode
        if inode.id in carried.unlinked:
            return self._open_unlinked(wanted, carried)
        if isinstance(inode.location, ByHandle):
            try:
                return self._open_handle(inode.location)
            except OSError as error:
                wanted.why = reason_of(error)
                raise
        if not wanted.name:
            told = carried.lost.get(inode.id)
            wanted.why = told.reason if told else "the source could not locate it"
            raise OSError(told.errno if told else LOST_ERRNO, wanted.why)
        if wanted.parent:
            fd = os.open(wanted.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
        else:
            fd = self._share.open(wanted.name)
        try:
            wanted.why = self._fault(fd, wanted, carried)
            if wanted.why:
                raise OSError(errno.ESTALE, wanted.why)
        except OSError:
            os.close(fd)
            raise
        return fd

    def _open_unlinked(self, wanted: _Wanted, carried: _Carried) -> int:
        record = carried.unlinked[wanted.inode.id]
        expected = carried.identities.get(wanted.inode.id)
        if self._same and expected and expected.openable:
            with suppress(OSError):
                return self._by_handle(expected)
        try:
            return unlinked.make(self._share, record, carried.contents.get(wanted.inode.id, []))
        except StateError as error:
            wanted.why = str(error)
            raise OSError(LOST_ERRNO, wanted.why) from None

    def _open_mounts(self, found: stream.Stream) -> None:
        """A descriptor on each mount that the source names; what is missing here is left out, and logged."""
        for mount in mount_paths(found.state):
            try:
                path = mount.path.encode()
                flags = os.O_RDONLY | os.O_NONBLOCK
                fd = self._root_for_handles() if path == b"." else self._share.open(path, flags)
                self._mount_fds[mount.mount_id] = fd
            except OSError as error:
                _LOG.warning(
                    "Migration: the source's mount at %r can't be used here: %s.", mount.path, reason_of(error)
                )

    def _root_for_handles(self) -> int:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._share.root_fd)

    def _open_handle(self, location: ByHandle) -> int:
        handle = location.handle
        mount_fd = self._mount_fds.get(handle.mount_id)
        if mount_fd is None:
            raise OSError(errno.ESTALE, "its mount is not here")
        fd = _syscalls.open_by_handle_at(mount_fd, handle.handle_type, handle.handle, os.O_PATH | os.O_NOFOLLOW)
        if not self._within(fd):
            os.close(fd)
            raise OSError(errno.EXDEV, "it is not in the share")
        return fd

    def _by_handle(self, expected: Expected) -> int:
        """Opens a file of the share's own mount by its handle. Raises OSError."""
        if expected.mount != 0:
            raise OSError(errno.ESTALE, "its mount is not here")
        root = self._root_for_handles()
        try:
            fd = _syscalls.open_by_handle_at(root, expected.handle_type, expected.handle, os.O_PATH | os.O_NOFOLLOW)
        finally:
            os.close(root)
        if not self._within(fd):
            os.close(fd)
            raise OSError(errno.EXDEV, "it is not in the share")
        return fd

    def _within(self, fd: int) -> bool:
        """A handle reaches the whole file system: a directory must lead up to the root by ``..``. Files are taken on
        trust.
        """
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            return True
        top = os.fstat(self._share.root_fd)
        at = os.dup(fd)
        try:
            while True:
                here = os.fstat(at)
                if (here.st_dev, here.st_ino) == (top.st_dev, top.st_ino):
                    return True
                above = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=at)
                os.close(at)
                at = above
                over = os.fstat(at)
                if (over.st_dev, over.st_ino) == (here.st_dev, here.st_ino):
                    return False
        except OSError:
            return False
        finally:
            os.close(at)

    def _fault(self, fd: int, wanted: _Wanted, carried: _Carried) -> str:
        """Why an open fd is not the source's inode, but for its handle, which is compared as it is filed; else
        empty.
        """
        reference = wanted.inode.file_handle
        if reference is not None and isinstance(wanted.inode.location, Path):
            made = identity.make_handle(fd)
            if made is None or (made.handle_type, made.handle) != (reference.handle_type, reference.handle):
                return "another file has its name now"
        expected = carried.identities.get(wanted.inode.id) if self._compare else None
        if expected is None or (self._same and expected.handle and expected.openable):
            return ""
        return same_file(fd, expected) if self._same else same_kind(fd, expected)

    def _expected_handle(self, wanted: _Wanted, carried: _Carried) -> tuple[int, bytes] | None:
        """What it must have; None when nobody knows, or when it was made anew from its content."""
        if not (self._compare and self._same) or wanted.inode.id in carried.unlinked:
            return None
        expected = carried.identities.get(wanted.inode.id)
        return (expected.handle_type, expected.handle) if expected and expected.handle and expected.openable else None

    def _file(self, wanted: _Wanted, fd: int, expected: tuple[int, bytes] | None = None) -> None:
        """Into the table, if it has the expected handle; ``fd`` is the table's from here on. Raises OSError."""
        number = wanted.inode.id
        try:
            self._kinds[number] = self._live.restore(
                number, wanted.lookups, fd, wanted.parent, wanted.name if wanted.parent else b"", expected
            )
        except OSError as error:
            if error.errno == errno.ESTALE and expected:
                wanted.why = "another file has its name now"
            raise

    # ---- what is not where it was
    # ----------------------------------------------------------------------------------------

    def _search(self, missing: list[_Wanted], below: dict[int, list[_Wanted]], carried: _Carried) -> list[_Wanted]:
        """By handle; then by one walk of the share, for as long as --migration-search-limit allows. What is still
        missing.
        """
        still: list[_Wanted] = []
        waiting: deque[_Wanted] = deque()
        everything = deque(missing)
        while everything:
            wanted = everything.popleft()
            expected = carried.identities.get(wanted.inode.id)
            if expected is None or not expected.handle or not expected.openable or expected.mount != 0:
                still.append(wanted)
                everything.extend(below.pop(wanted.inode.id, ()))
                continue
            try:
                fd = self._by_handle(expected)
                if os.fstat(fd).st_nlink == 0:
                    os.close(fd)
                    raise OSError(errno.ESTALE, "it has no name any more")
                self._file(wanted, fd)
                waiting.extend(below.pop(wanted.inode.id, ()))
                more = self._downwards(waiting, below, carried)
                everything.extend(more)
            except OSError:
                still.append(wanted)
                everything.extend(below.pop(wanted.inode.id, ()))
        return self._walk(still, carried) if still else still

    def _walk(self, missing: list[_Wanted], carried: _Carried) -> list[_Wanted]:
        by_handle: dict[tuple[int, bytes], _Wanted] = {}
        for wanted in missing:
            expected = carried.identities.get(wanted.inode.id)
            if expected and expected.handle:
                by_handle[expected.handle_type, expected.handle] = wanted
        limit = time.monotonic() + self._config.search_limit
        found: set[int] = set()

        def visit(folder_fd: int, folder: bytes, name: bytes) -> bool:
            with suppress(OSError):
                made = identity.make_handle(folder_fd, name)
                wanted = by_handle.get((made.handle_type, made.handle)) if made else None
                if wanted is not None and wanted.inode.id not in found:
                    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder_fd)
                    self._file(wanted, fd)
                    found.add(wanted.inode.id)
            return len(found) < len(by_handle) and time.monotonic() < limit

        if by_handle:
            walk(self._share.root_fd, _Everything(), visit)
        return [wanted for wanted in missing if wanted.inode.id not in found]

    def _copy_check(self, missing: list[_Wanted], carried: _Carried) -> None:
        """A copy must at least have the names in the root that the guest holds."""
        if self._same or not self._compare:
            return
        for wanted in missing:
            if wanted.parent == ROOT_ID and wanted.error and wanted.error.errno == errno.ENOENT:
                raise StateError(
                    f"the shared directory has no {os.fsdecode(wanted.name)!r}, which the guest uses: it is not a copy "
                    "of the source's"
                )

    def _lose(self, missing: list[_Wanted], below: dict[int, list[_Wanted]], carried: _Carried) -> None:
        everything = deque(missing)
        while everything:
            wanted = everything.popleft()
            code = wanted.error.errno if wanted.error and wanted.error.errno else LOST_ERRNO
            why = wanted.why or (reason_of(wanted.error) if wanted.error else "its directory could not be restored")
            self._failures.append(f"inode {wanted.inode.id}{_named(wanted)}: {why}")
            self._live.restore_lost(wanted.inode.id, wanted.lookups, code, wanted.parent, wanted.name)
            everything.extend(below.pop(wanted.inode.id, ()))

    def _restore_trailer_only(self, carried: _Carried) -> None:
        """Inodes without a name that nothing has open: never a reason to fail."""
        for record in carried.unlinked.values():
            if record.refcount:
                try:
                    fd = unlinked.make(self._share, record, [])
                    self._live.restore(record.inode, record.refcount, fd, 0, b"", None)
                except (OSError, StateError):
                    self._live.restore_lost(record.inode, record.refcount, errno.ESTALE, 0, b"")
        for lost in carried.lost.values():
            if lost.refcount:
                self._live.restore_lost(lost.inode, lost.refcount, lost.errno, 0, b"")

    # ---- open files
    # ------------------------------------------------------------------------------------------------------

    def _kind(self, number: int) -> int:
        """``st_mode >> 12`` of an inode that was restored, else 0."""
        return self._kinds.get(number) or self._live.kind(number)

    def _reopen(self, handle: Handle, carried: _Carried) -> None:
        directory = self._kind(handle.inode) == stat.S_IFDIR >> 12 or bool(handle.flags & os.O_DIRECTORY)
        flags = handle.flags & ~_NOT_REOPENED
        try:
            self._live.reopen(handle.id, handle.inode, flags, directory)
        except OSError as error:
            if self._kind(handle.inode):
                self._failures.append(f"open file {handle.id} of inode {handle.inode}: {reason_of(error)}")
            self._live.reopen_lost(handle.id, handle.inode, flags, directory, error.errno or LOST_ERRNO)
            return
        half = carried.half_read.get(handle.id)
        if half is not None and directory:
            entries = [(half.start, 0, 0, b"")]
            entries += [(entry.offset, entry.inode, entry.kind, entry.name) for entry in half.entries]
            self._live.carry(handle.id, entries)

    # ---- the end
    # ---------------------------------------------------------------------------------------------------------

    def _report(self) -> None:
        for text in self._failures[:LOGGED]:
            _LOG.warning("Migration: can't be restored: %s.", text)
        if len(self._failures) > LOGGED:
            _LOG.warning("Migration: %d more can't be restored.", len(self._failures) - LOGGED)
        if self._failures and self._config.on_error is OnError.ABORT:
            more = f" and {len(self._failures) - 1} more" if len(self._failures) > 1 else ""
            raise StateError(f"can't be restored: {self._failures[0]}{more} (--migration-on-error=guest-error goes on)")

    def _finish(self, found: stream.Stream, carried: _Carried) -> None:
        v1 = body(found.state)
        if carried.negotiated is not None:
            one = carried.negotiated
            session = (one.major, one.minor, one.flags, one.max_readahead, one.max_write)
        else:
            flags = self._live.settings()
            for name, flag in STATE_OPTION_FLAGS.items():
                flags = flags | flag if getattr(v1.options, name) else flags & ~flag
            session = (7, OLDEST_MINOR, flags, DEFAULT_READAHEAD, DEFAULT_MAX_WRITE)
        self._live.finish(max(v1.next_inode, 2), v1.next_handle, bool(v1.inodes), session)


class _Everything(set[int]):
    """The set that has every inode number: the walk then shows every entry."""

    def __contains__(self, item: object) -> bool:
        return True


def _counted(inodes: Sequence[Inode]) -> list[tuple[Inode, int]]:
    """All inodes but the root, each with the number of its children."""
    children: dict[int, int] = {}
    for inode in inodes:
        if isinstance(inode.location, Path):
            children[inode.location.parent] = children.get(inode.location.parent, 0) + 1
    return [(inode, children.get(inode.id, 0)) for inode in inodes if inode.id != ROOT_ID]


def _named(wanted: _Wanted) -> str:
    return f" ({os.fsdecode(wanted.name)!r})" if wanted.name else ""


def _sort(records: tuple[Record, ...]) -> _Carried:
    carried = _Carried(Identities([record for record in records if isinstance(record, InodeIdentities)]))
    for record in records:
        match record:
            case Mounts():
                carried.mounts = record
            case Negotiated():
                carried.negotiated = record
            case Unlinked(inode=inode):
                carried.unlinked[inode] = record
            case Content(inode=inode):
                carried.contents.setdefault(inode, []).append(record)
            case HalfRead(handle=handle):
                carried.half_read[handle] = record
            case Names(names):
                carried.names.update({name.inode: name for name in names})
            case LostInodes(lost):
                carried.lost.update({one.inode: one for one in lost})
            case _:
                pass
    return carried
