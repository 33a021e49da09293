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
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import chain
from typing import Final

from ferryfs.errors import StateError
from ferryfs.migration import bulk, clones, folders, identity, mounts, search, stream, unlinked
from ferryfs.migration.by_handle import Handles
from ferryfs.migration.carried import Carried, sort
from ferryfs.migration.identity import Sameness
from ferryfs.migration.live_destination import LiveDestination
from ferryfs.migration.losses import Losses, log_aged
from ferryfs.migration.mounts import MountsHere
from ferryfs.migration.numbered import numbered
from ferryfs.migration.options import INIT_FLAG_SWITCHES, STATE_OPTION_FLAGS, STATE_OPTIONS, missing_switch
from ferryfs.migration.share import Share, reason_of
from ferryfs.migration.state import ROOT_ID, ByHandle, Handle, Inode, Path, body, mount_paths
from ferryfs.migration.trailer_records import Content, FileSystemIdentity, Unlinked
from ferryfs.migration.verify import Expected, is_aged, proof_of, same_file, same_kind
from ferryfs.migration.wanted import Wanted, called, counted, name_of, places, taken_along, wanted_of
from ferryfs.passthrough.config import IdentityCheck, MigrationConfig, OnError, RestoreMode

_LOG = logging.getLogger("ferryfs.migration")

# What a guest gets for a file that is not the one it had, or that could not be found.
LOST_ERRNO: Final = errno.EIO
_NOT_REOPENED: Final = os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NOCTTY
# Session values of a guest that came from virtiofsd, whose stream does not have them: the least that it can have
# agreed to.
OLDEST_MINOR: Final = 31
DEFAULT_MAX_WRITE: Final = 1 << 20
DEFAULT_READAHEAD: Final = 1 << 17
# What a guest gets for an inode whose mount is missing here; the next destination knows such inodes by it.
MISSING_MOUNT_ERRNO: Final = errno.ENODEV


class Restore:
    """One load into one device. ``run`` once."""

    def __init__(self, live: LiveDestination, config: MigrationConfig, share: Share, options: frozenset[str]) -> None:
        """``options``: long names of the switches that this daemon was started with."""
        self._live = live
        self._config = config
        self._share = share
        self._options = options
        self._losses = Losses()
        self._same = False
        # A block clone of the source's file system: a copy in which handles say something all the same.
        self._clone = False
        # It can't be one, since it has the numbers that the running kernel gave the source's.
        self._firm = False
        # The source runs on this host, so what it has open is alive until it ends.
        self._beside = False
        self._compare = False
        # Open files; the others are only cached by the guest.
        self._opened: frozenset[int] = frozenset()
        self._aged: list[str] = []
        self._kinds: dict[int, int] = {}
        self._handles = Handles(share, live)
        self._mounts = MountsHere()
        self._carried = sort(())
        self._inodes: Mapping[int, Inode] = {}
        # The roots of mounts that are missing here -> why.
        self._absent: dict[int, str] = {}
        # By the nodeids of their roots: those of the source's own directory. The next destination has to find them.
        self.lost_mounts: dict[int, FileSystemIdentity] = {}
        # Inodes that wait for their first use.
        self.deferred = 0

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
        carried = sort(found.trailer.records if found.trailer else ())
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
            self._handles.close()
        _LOG.info(
            "Migration: %d inodes and %d open files restored in %.0f ms%s.",
            len(body(found.state).inodes),
            len(body(found.state).handles),
            1000 * (time.monotonic() - started),
            f"; {self.deferred} wait for their first use" if self.deferred else "",
        )

    # ---- what must hold before anything is opened
    # ------------------------------------------------------------------------

    def _check_options(self, found: stream.Stream, carried: Carried) -> None:
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

    def _check_root(self, found: stream.Stream, carried: Carried) -> None:
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
        unknown = source is None or here is None
        if unknown and check is IdentityCheck.REQUIRE:
            raise StateError("--migration-identity=require: the stream does not say which directory the source shared")
        if unknown and not carried.identities:  # of virtiofsd
            if root.file_handle is None:
                _LOG.warning("Migration: nothing in the stream proves that the source shared this directory.")
            self._same = root.file_handle is not None
            return
        verdict = identity.same_directory(source, here)
        self._same = verdict.sameness is Sameness.SAME
        self._firm = verdict.firm
        if source is not None and here is not None:
            born_alike = source.born_ns >= 0 and here.born_ns >= 0
            self._clone = verdict.sameness is Sameness.UNPROVEN and born_alike and source.openable and here.openable
            self._beside = self._same and bool(source.host) and source.host == here.host
        self._compare = check is not IdentityCheck.OFF
        if not self._same and check is IdentityCheck.REQUIRE:
            raise StateError(
                f"--migration-identity=require: the shared directory is {verdict.sameness.value}: {verdict.reason}"
            )
        if by_handle and not verdict.handles:
            raise StateError(
                "the source sent file handles (--migration-mode=file-handles), and the shared directory is "
                f"{verdict.sameness.value}: {verdict.reason}"
            )
        if not self._same and self._compare and not by_handle and carried.identities.unmeasured():
            why = "and the source left out the sizes by which a copy is known (--migration-restore=lazy there)"
            raise StateError(f"the shared directory is {verdict.sameness.value}: {verdict.reason}; {why}")
        if not self._same:
            _LOG.info("Migration: the shared directory counts as a copy of the source's: %s.", verdict.reason)

    def _doubt_mounts(self, inodes: Sequence[Inode], carried: Carried) -> None:
        doubts = mounts.doubted(self._mounts, inodes, carried)
        if doubts and self._config.identity is IdentityCheck.REQUIRE:
            raise StateError(f"--migration-identity=require: {next(iter(doubts.values()))}")
        unproven = [why for index, why in doubts.items() if index in self._mounts.unproven]
        if unproven:
            _LOG.warning("Migration: types and sizes are compared as in a copy, because %s.", "; ".join(unproven))

    # ---- inodes
    # ----------------------------------------------------------------------------------------------------------

    def _restore_all(self, found: stream.Stream, carried: Carried) -> None:
        v1 = body(found.state)
        self._opened = frozenset(handle.inode for handle in v1.handles)
        self._mounts = mounts.look(self._share, carried.mounts, self._same, self._compare)
        if self._firm:
            self._mounts.firm.add(0)
        self._carried = carried
        self._inodes = numbered(found.state)
        self._doubt_mounts(v1.inodes, carried)
        self._handles.open_mounts(mount_paths(found.state), self._mounts)
        if self._mounts.missing:
            absent = mounts.roots(self._mounts.missing, places(v1.inodes, carried))
            # Of a mount that was lost before, another one that was there since says nothing.
            self._absent = {number: why for number, why in absent.items() if number not in carried.mount_roots}
            self.lost_mounts = self._mounts.lost_identities(carried.mounts, self._absent)
        self._kinds[ROOT_ID] = stat.S_IFDIR >> 12
        todo = self._fast(v1.inodes, carried) if isinstance(v1.inodes, bulk.Records) else counted(v1.inodes)
        missing_numbers = {inode.id for inode, _ in todo}
        below: dict[int, list[Wanted]] = {}
        waiting: deque[Wanted] = deque()
        for inode, children in todo:
            wanted = wanted_of(inode, inode.refcount - children, carried)
            if wanted.parent in missing_numbers:
                below.setdefault(wanted.parent, []).append(wanted)
            else:
                waiting.append(wanted)
        missing = self._downwards(waiting, below, carried)
        if not self._same and len(missing) == len(v1.inodes) - 1:
            # None of a directory that may be any: stale handles say that it is not the source's.
            for wanted in missing:
                wanted.gone = False
        if missing and self._same and carried.identities:
            missing = self._search(missing, below, carried)
        self._copy_check(missing, carried)
        self._lose(missing, below, carried)
        self._restore_trailer_only(carried)
        for handle in self._live.reopen_files(v1.handles, _NOT_REOPENED):
            self._reopen(handle, carried)
        self._report()

    def _fast(self, records: bulk.Records, carried: Carried) -> list[tuple[Inode, int]]:
        """Restores what is where it should be, without an object an inode; what is left, with the number of its
        children.
        """
        lying = carried.identities.lying_on(self._mounts.lost)
        exact = (
            carried.unlinked,
            carried.nameless,
            carried.names,
            carried.lost,
            carried.mount_roots,
            self._absent,
            lying,
        )
        for number in chain(*exact):
            records.leave(number)
        if records.by_handle:
            records.claim(carried.identities.columns())
        if self._compare:
            trusted = {0} if self._clone else self._mounts.same
            records.expect(carried.identities.columns(), trusted, self._clone, trusted - self._mounts.firm)
            records.believe(folders.usable(carried.folders, self._share, carried.mounts) if self._beside else None)
            if self._config.restore is RestoreMode.LAZY and self._same and carried.mounts and carried.mounts.mounts:
                self.deferred = self._live.defer(records, self._opened, carried.mounts.mounts[0].mount_id)
        self._live.restore_records(records, self._compare, self._same, self._handles.fds)
        self._aged += [called(records[index].id, self._inodes, self._carried) for index in records.aged()]
        return [(records[index], records.children(index)) for index in records.left()]

    def _downwards(self, waiting: deque[Wanted], below: dict[int, list[Wanted]], carried: Carried) -> list[Wanted]:
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

    def _open(self, wanted: Wanted, parent_fd: int, carried: Carried) -> int:
        """An O_PATH fd of the inode, proven to be it as far as it can be. Raises OSError."""
        inode = wanted.inode
        if inode.id in carried.unlinked:
            return self._open_unlinked(wanted, carried)
        if inode.id in self._absent:
            wanted.why = self._absent[inode.id]
            raise OSError(MISSING_MOUNT_ERRNO, wanted.why)
        if self._mounts.lost:
            # Whatever its place is said by: a path from the root leads to what is there instead.
            known = carried.identities.get(inode.id)
            if known and known.mount in self._mounts.lost:
                wanted.why = self._mounts.lost[known.mount]
                raise OSError(MISSING_MOUNT_ERRNO, wanted.why)
        if isinstance(inode.location, ByHandle):
            try:
                return self._handles.open_located(inode.location.handle, carried.identities.get(inode.id))
            except OSError as error:
                wanted.gone = error.errno == errno.ESTALE
                said = error.errno in (errno.ENODEV, errno.EXDEV)
                wanted.why = str(error.strerror) if said else reason_of(error)
                raise
        told = carried.lost.get(inode.id)
        if not wanted.name:
            wanted.why = told.reason if told else "the source could not locate it"
            raise OSError(told.errno if told else LOST_ERRNO, wanted.why)
        if wanted.parent:
            fd = os.open(wanted.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
        else:
            fd = self._share.open(wanted.name)
        try:
            wanted.why = self._fault(fd, wanted, carried)
            # The migration before lost it with its mount: only that can be what it was.
            mountless = told is not None and told.errno == MISSING_MOUNT_ERRNO
            if wanted.parent and not wanted.why and (mountless or inode.id in carried.mount_roots):
                lost = carried.mount_roots.get(inode.id)
                mount = lost if self._same and self._compare else None
                proven = self._config.identity is IdentityCheck.REQUIRE
                wanted.why = mounts.root_fault(self._share, parent_fd, wanted.name, fd, mount, proven)
                if wanted.why and lost is not None:
                    self.lost_mounts[inode.id] = lost
                if wanted.why and mountless:
                    wanted.why = f"its mount was missing before, and is so still: {wanted.why}"
                if wanted.why:
                    self._absent[inode.id] = wanted.why
            if wanted.why:
                raise OSError(errno.ESTALE, wanted.why)
            expected = carried.identities.get(inode.id) if self._compare else None
            if expected is not None and not self._counts(expected) and is_aged(fd, expected):
                self._aged.append(name_of(inode))
        except OSError:
            os.close(fd)
            raise
        return fd

    def _open_unlinked(self, wanted: Wanted, carried: Carried) -> int:
        record = carried.unlinked[wanted.inode.id]
        expected = carried.identities.get(wanted.inode.id)
        location = wanted.inode.location
        with suppress(OSError):
            fd = -1
            if isinstance(location, ByHandle) and (expected is None or expected.handle):
                fd = self._handles.open_located(location.handle, expected)
            elif self._same and expected and self._leads_to_it(expected):
                fd = self._handles.open(expected)
            if fd >= 0:
                with ExitStack() as stack:
                    stack.callback(os.close, fd)
                    if not clones.other(fd, wanted.inode.id, carried, self._mounts, self._compare):
                        stack.pop_all()
                        return fd
        try:
            fd = self._make(record, carried.contents.get(wanted.inode.id, []), expected)
        except StateError as error:
            wanted.why = str(error)
            raise OSError(LOST_ERRNO, wanted.why) from None
        wanted.anew = True
        wanted.hollow = unlinked.is_hollow(record)
        return fd

    def _make(self, record: Unlinked, pieces: list[Content], expected: Expected | None) -> int:
        """A nameless inode in the file system that it was in, if that can be, else in the share's own. Raises OSError,
        StateError.
        """
        path = self._mounts.paths.get(expected.mount) if expected else None
        if path is not None:
            # It may be read-only, full, or a single file.
            with suppress(OSError):
                folder = self._share.open(path, os.O_PATH | os.O_DIRECTORY)
                try:
                    return unlinked.make(self._share, record, pieces, folder)
                finally:
                    os.close(folder)
        return unlinked.make(self._share, record, pieces, self._share.root_fd)

    def _fault(self, fd: int, wanted: Wanted, carried: Carried) -> str:
        """Why an open fd is not the source's inode, but for its handle, which is compared as it is filed; else
        empty.
        """
        reference = wanted.inode.file_handle
        if reference is not None and isinstance(wanted.inode.location, Path):
            made = identity.make_handle(fd)
            if made is None or (made.handle_type, made.handle) != (reference.handle_type, reference.handle):
                return "another file has its name now"
        expected = carried.identities.get(wanted.inode.id) if self._compare else None
        if expected is None or (self._counts(expected) and expected.openable):
            return ""
        return same_file(fd, expected) if self._counts(expected) else same_kind(fd, expected, self._clone)

    def _counts(self, expected: Expected) -> bool:
        """Whether the file handle proves anything: its mount is here, and the source's own file system."""
        return bool(expected.handle) and expected.mount in self._mounts.same

    def _leads_to_it(self, expected: Expected) -> bool:
        """Whether the file handle opens the source's inode here, to whom that is allowed."""
        return bool(expected.handle) and expected.openable and self._handles.knows(expected.mount)

    def _expected_handle(self, wanted: Wanted, carried: Carried) -> tuple[int, bytes] | None:
        """What it must have; None when nobody knows, or when it was made anew from its content."""
        if not (self._compare and self._same) or wanted.inode.id in carried.unlinked:
            return None
        expected = carried.identities.get(wanted.inode.id)
        if expected is None or not self._counts(expected) or not expected.openable:
            return None
        return expected.handle_type, expected.handle

    def _file(self, wanted: Wanted, fd: int, expected: tuple[int, bytes] | None = None) -> None:
        """Into the table, if it has the expected handle; ``fd`` is the table's from here on. Raises OSError."""
        number = wanted.inode.id
        try:
            other, aged = "", False
            if not wanted.anew:
                other = clones.other(fd, number, self._carried, self._mounts, self._compare)
                # Who goes by name in a copy was looked at before.
                by_handle = isinstance(wanted.inode.location, ByHandle)
                aged = self._compare and clones.aged(fd, number, self._carried, self._mounts, by_handle)
            if other:
                wanted.other, wanted.why = True, other
                raise OSError(LOST_ERRNO, other)
        except OSError:
            os.close(fd)
            raise
        try:
            self._kinds[number] = self._live.restore(
                number, wanted.lookups, fd, wanted.parent, wanted.name if wanted.parent else b"", expected
            )
        except OSError as error:
            if error.errno == errno.ESTALE and expected:
                wanted.why = "another file has its name now"
            raise
        if aged:
            self._aged.append(called(number, self._inodes, self._carried))
        if wanted.hollow:
            self._live.hollow(number)

    # ---- what is not where it was
    # ----------------------------------------------------------------------------------------

    def _search(self, missing: list[Wanted], below: dict[int, list[Wanted]], carried: Carried) -> list[Wanted]:
        """By handle; then by one walk of the share, for as long as --migration-search-limit allows. What is still
        missing.
        """
        still: list[Wanted] = []
        waiting: deque[Wanted] = deque()
        everything = deque(missing)
        while everything:
            wanted = everything.popleft()
            expected = carried.identities.get(wanted.inode.id)
            located = isinstance(wanted.inode.location, ByHandle)
            if located or expected is None or not self._leads_to_it(expected):
                still.append(wanted)
                everything.extend(taken_along(wanted, below))
                continue
            try:
                fd = self._handles.open(expected)
                if os.fstat(fd).st_nlink == 0 and not (self._beside and wanted.inode.id in self._opened):
                    os.close(fd)
                    raise OSError(errno.ESTALE, "it has no name any more")
                self._file(wanted, fd)
                waiting.extend(below.pop(wanted.inode.id, ()))
                more = self._downwards(waiting, below, carried)
                everything.extend(more)
            except OSError as error:
                wanted.gone = error.errno == errno.ESTALE
                wanted.unasked = error.errno == errno.EPERM
                still.append(wanted)
                everything.extend(taken_along(wanted, below))
        return self._walk(still, carried) if still else still

    def _walk(self, missing: list[Wanted], carried: Carried) -> list[Wanted]:
        wanted_by: dict[search.Key, Wanted] = {}
        # Those of open files first: the time may be over before the others'.
        for wanted in sorted(missing, key=lambda wanted: wanted.inode.id not in self._opened):
            expected = carried.identities.get(wanted.inode.id)
            if expected and self._counts(expected) and wanted.inode.id not in self._absent and not wanted.other:
                wanted_by[expected.mount, expected.handle_type, expected.handle] = wanted
        if not wanted_by or self._config.search_limit <= 0:
            return missing
        folders = [wanted.parent for wanted in wanted_by.values() if wanted.parent]
        looking = search.Search(self._share, self._live, self._mounts, self._config.search_limit)
        found = {wanted.inode.id for wanted in looking.run(wanted_by, folders, self._file)}
        for wanted in wanted_by.values():
            # 1. The walk has seen directory "b"; 2. somebody moves the file there, from "c"; 3. the walk sees "c". A
            # guest that has it only cached looks its name up anew, so no harm comes of it. Who can ask by the handle
            # does: one that was moved out of the share is lost then, and named.
            wanted.gone |= looking.seen_all and wanted.unasked
        return [wanted for wanted in missing if wanted.inode.id not in found]

    def _copy_check(self, missing: list[Wanted], carried: Carried) -> None:
        """A copy must at least have the names in the root that the guest holds."""
        if self._same or not self._compare:
            return
        for wanted in missing:
            if wanted.parent == ROOT_ID and wanted.error and wanted.error.errno == errno.ENOENT:
                raise StateError(
                    f"the shared directory has no {os.fsdecode(wanted.name)!r}, which the guest uses: it is not a copy "
                    "of the source's"
                )

    def _lose(self, missing: list[Wanted], below: dict[int, list[Wanted]], carried: Carried) -> None:
        everything = deque(missing)
        while everything:
            wanted = everything.popleft()
            code = wanted.error.errno if wanted.error and wanted.error.errno else LOST_ERRNO
            why = wanted.why or (reason_of(wanted.error) if wanted.error else "its directory could not be restored")
            if not wanted.gone or wanted.inode.id in self._opened:
                # Else it was removed since the guest was stopped, and nothing that the guest has open depends on it.
                self._losses.add(called(wanted.inode.id, self._inodes, self._carried), why)
            if not self._veil(wanted, carried):
                expected = carried.identities.get(wanted.inode.id)
                # In a copy the source's handle proves nothing, to the next destination either.
                proof = proof_of(expected) if expected and self._counts(expected) else None
                self._live.restore_lost(wanted.inode.id, wanted.lookups, code, wanted.parent, wanted.name, proof)
            everything.extend(taken_along(wanted, below))

    def _veil(self, wanted: Wanted, carried: Carried) -> bool:
        """Of the root of a missing mount: what lies beneath is not shown for it as long as the guest uses it."""
        if wanted.inode.id not in self._absent:
            return False
        parent, name = wanted.parent, wanted.name
        expected = carried.identities.get(wanted.inode.id)
        if not name and expected:
            parent, name = expected.parent, expected.name
        if not name or not parent:
            return False
        try:
            folder = self._live.open_path(parent)
            try:
                fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            finally:
                os.close(folder)
            self._live.restore_veil(wanted.inode.id, wanted.lookups, fd, MISSING_MOUNT_ERRNO, parent, name)
        except (KeyError, OSError):
            # There is nothing beneath that could be shown.
            return False
        return True

    def _restore_trailer_only(self, carried: Carried) -> None:
        """Inodes without a name that nothing has open: never a reason to fail."""
        for record in carried.unlinked.values():
            if record.refcount:
                try:
                    fd, made = self._revive(record, carried)
                    self._live.restore(record.inode, record.refcount, fd, 0, b"", None)
                    if made and unlinked.is_hollow(record):
                        self._live.hollow(record.inode)
                except (OSError, StateError):
                    self._live.restore_lost(record.inode, record.refcount, errno.ESTALE, 0, b"", None)
        for lost in carried.lost.values():
            if lost.refcount:
                self._live.restore_lost(lost.inode, lost.refcount, lost.errno, 0, b"", None)

    def _revive(self, record: Unlinked, carried: Carried) -> tuple[int, bool]:
        """(fd of the inode, whether it was made anew): the source's own while it lives. Raises OSError, StateError."""
        expected = carried.identities.get(record.inode)
        if self._same and expected and self._leads_to_it(expected):
            with suppress(OSError):
                fd = self._handles.open(expected)
                if os.fstat(fd).st_nlink == 0:
                    return fd, False
                os.close(fd)
        return self._make(record, [], expected), True

    # ---- open files
    # ------------------------------------------------------------------------------------------------------

    def _kind(self, number: int) -> int:
        """``st_mode >> 12`` of an inode that was restored, else 0."""
        return self._kinds.get(number) or self._live.kind(number)

    def _reopen(self, handle: Handle, carried: Carried) -> None:
        # O_DIRECTORY says little: Linux has it, with O_TMPFILE, among the flags of a file that it made without a name.
        kind = self._kind(handle.inode)
        directory = kind == stat.S_IFDIR >> 12 if kind else bool(handle.flags & os.O_DIRECTORY)
        flags = handle.flags & ~_NOT_REOPENED
        try:
            self._live.reopen(handle.id, handle.inode, flags, directory)
        except OSError as error:
            if kind:
                self._losses.add(
                    f"open file {handle.id} of {called(handle.inode, self._inodes, self._carried)}", reason_of(error)
                )
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
        log_aged(self._aged, self._same)
        self._losses.log()
        sentence = self._losses.sentence()
        if sentence and self._config.on_error is OnError.ABORT:
            raise StateError(f"{sentence} (--migration-on-error=guest-error goes on)")

    def _finish(self, found: stream.Stream, carried: Carried) -> None:
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
