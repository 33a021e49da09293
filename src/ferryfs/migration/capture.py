"""The source's part of a migration: locate what the guest holds, then write it down.

``collect`` runs in the background while the guest works on; what it finds stays in the inode table as the place where
each inode was last seen. ``save`` runs when the guest is stopped: it looks at each inode once more, because this may
have happened:

1. ``collect`` finds inode 7 as "a" in directory 3;
2. the guest, or somebody on the host, renames it to "b", and makes another "a";
3. the state says 3/"a", and the destination opens the wrong file.

So nothing is believed that was not checked in the stopped phase. Where that suffices, the directory is what is checked:
nobody has changed it since the names in it were (``steady``).
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Final

from ferryfs.errors import StateError
from ferryfs.migration import codec, trailer, unlinked
from ferryfs.migration.collect import locate
from ferryfs.migration.collect.ground import Ground
from ferryfs.migration.collect.locate import Findings
from ferryfs.migration.collect.progress import Progress
from ferryfs.migration.live_source import LiveSource
from ferryfs.migration.mounts import mount_id
from ferryfs.migration.share import Share, reason_of
from ferryfs.migration.trailer_identities import IDENTITIES_PER_RECORD, Folders, InodeIdentities
from ferryfs.migration.trailer_records import (
    DirectoryEntry,
    FileSystemIdentity,
    HalfRead,
    Lost,
    LostInodes,
    Mount,
    MountRoot,
    MountRoots,
    Mounts,
    Name,
    Nameless,
    Names,
    Negotiated,
    Packed,
    Record,
    Unlinked,
)
from ferryfs.migration.write_back import WriteBack
from ferryfs.passthrough.config import MigrationConfig, MigrationMode, RestoreMode, StreamVersion
from ferryfs.passthrough.config import Unlinked as UnlinkedMode
from ferryfs.wire.postcard import Writer

_LOG = logging.getLogger("ferryfs.migration")

# INIT flags (linux/fuse.h) that the state's options stand for.
WRITEBACK_CACHE: Final = 1 << 16
POSIX_ACL: Final = 1 << 20
SUBMOUNTS: Final = 1 << 27
CREATE_SUPP_GROUP: Final = 1 << 34

# Entries of half-read directories that travel, in all, since a guest may have any number of these: where a directory
# would exceed it, the guest goes on at the host's own offsets. And what an entry counts beside its name.
HALF_READ_BYTES: Final = 64 << 20
ENTRY_BYTES: Final = 24
WORTH_TELLING_SECONDS: Final = 0.01
# How many names of a kind a log line has.
NAMED: Final = 5
MAX_PAGES: Final = 256
_LOST_BEFORE: Final = "an earlier migration has lost it"
_NOT_REOPENED: Final = os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NOCTTY


class Capture:
    """One migration's source side: ``collect`` (or not), then ``save``."""

    def __init__(
        self,
        live: LiveSource,
        config: MigrationConfig,
        share: Share,
        options: tuple[str, ...],
        lost_mounts: Mapping[int, FileSystemIdentity] | None = None,
    ) -> None:
        """``options``: long names of the switches that the guest relies on. ``lost_mounts``: by the nodeids of their
        roots, mounts that were missing when the guest came here.
        """
        self._live = live
        self._config = config
        self._share = share
        self._options = options
        self._lost_mounts = lost_mounts or {}
        self._by_handle = config.mode is MigrationMode.FILE_HANDLES
        self._ground = Ground(share)
        # What collecting found beside the hints in the inode table.
        self._collected = Findings()
        self._write_back = WriteBack(share)

    def collect(self, cancelled: Callable[[], bool]) -> None:
        """Locates everything while the guest works on. Ends early when it is cancelled."""
        started = time.monotonic()
        if not self._live.session()[0]:
            return
        self._live.begin()
        # Once here, so that little is left for the stopped phase.
        self._write_back.start(self._live.remote_files())
        progress = Progress()
        # Who goes by handle needs no place, but its name proves at the destination that it lies in the share.
        if locate.check(self._live, self._ground, 1, cancelled, progress) and not self._by_handle:
            self._collected = locate.Search(self._live, self._share, cancelled, progress, Findings()).run(walks=True)
            _LOG.info(
                "Migration: %d inodes looked at in %.1f s while the guest works on; %d are not in a directory that it "
                "holds, %d have no name left.",
                self._live.inodes,
                time.monotonic() - started,
                len(self._collected.paths),
                len(self._collected.unlinked),
            )

    def save(self, cancelled: Callable[[], bool]) -> Iterator[bytes | memoryview]:
        """The stream, in pieces; the guest is stopped. Raises StateError, OSError."""
        started = time.monotonic()
        ready = self._live.session()[0]
        if not ready:
            yield from self._empty()
            return
        self._live.begin()
        self._write_back.start(self._live.remote_files())
        not_written = self._write_back.wait(cancelled)
        if not_written is not None:
            raise StateError(
                "what this host has cached of the share can't be written to its file system: "
                f"{not_written.strerror}; the destination might not have what the guest has written"
            )
        written = time.monotonic()
        if written - started > WORTH_TELLING_SECONDS:
            _LOG.info(
                "Migration: %.0f ms to write what this host had cached of a network file system.",
                1000 * (written - started),
            )
        findings = self._locate(cancelled, self._collected)
        if self._config.confirm_paths and not self._by_handle:
            findings = self._confirm(cancelled, findings)
        # Only a copy is known by sizes, and a block clone by those of what is open. In file-handles mode the
        # destination has to have the same file system, and with --migration-restore=lazy the same directory: it knows
        # a file by its handle.
        sizes = not self._by_handle and self._config.restore is RestoreMode.EAGER
        locate.measure(self._live, _threads(), sizes, cancelled)
        located = time.monotonic()
        files = self._live.open_files()
        mounts = locate.mounts(self._live, self._share)
        listed = self._mount_records(mounts)
        mounts = {mount.mount_id: mount.path for mount in listed} if listed else mounts
        roots = self._roots_without_path(findings, listed)
        lost, dead = self._sort_out(findings, files)
        state = self._state(findings, mounts)
        yield from trailer.write(state, self._records(findings, files, mounts, listed, roots, lost, dead))
        _LOG.info(
            "Migration: the state is written: %.0f ms to locate %d inodes, %.0f ms to write.",
            1000 * (located - started),
            self._live.inodes,
            1000 * (time.monotonic() - located),
        )

    def _locate(self, cancelled: Callable[[], bool], before: Findings) -> Findings:
        """Each inode is looked at once. Who goes by handle needs no name, so nothing is walked through for that."""
        progress = Progress()
        locate.check(self._live, self._ground, _threads(), cancelled, progress)
        findings = locate.Search(self._live, self._share, cancelled, progress, before).run(walks=not self._by_handle)
        if cancelled():
            raise StateError("saving was cancelled")
        return findings

    def _confirm(self, cancelled: Callable[[], bool], before: Findings) -> Findings:
        """Looks at each path once more. Without it this can happen, with a file that the guest does not touch:

        1. inode 7 is seen as "a" in directory 3, and another one is searched for, which takes a while;
        2. somebody on the host renames "a";
        3. the state says 3/"a". The destination notices, and searches; a virtiofsd there does not.
        """
        started = time.monotonic()
        self._live.recheck()
        findings = self._locate(cancelled, before)
        _LOG.info(
            "Migration: --migration-confirm-paths: %d inodes looked at once more in %.0f ms; %d had been moved.",
            self._live.inodes,
            1000 * (time.monotonic() - started),
            len(findings.elsewhere - before.elsewhere),
        )
        return findings

    # ---- the state
    # -------------------------------------------------------------------------------------------------------

    def _version(self) -> int:
        return codec.VERSION_1 if self._config.stream is StreamVersion.V1 else codec.VERSION_2

    def _empty(self) -> Iterator[bytes | memoryview]:
        """The state of a guest that has not mounted the share."""
        next_inode, next_handle = self._live.next_ids()
        writer = Writer()
        writer.u32(self._version())
        writer.u64(0)
        writer.u64(max(next_inode, 2))
        writer.u64(0)
        writer.u64(next_handle)
        for _ in range(4):
            writer.boolean(False)
        if self._version() == codec.VERSION_2:
            writer.u64(0)
        yield writer.getvalue()

    def _state(self, findings: Findings, mounts: dict[int, bytes]) -> Iterator[bytes]:
        others: dict[int, bytes] = {}
        for number, path in findings.paths.items():
            with suppress(UnicodeDecodeError):
                location = Writer()
                location.u32(codec.LOCATION_FULL_PATH)
                location.string(path.decode("utf-8"))
                others[number] = location.getvalue()
        named = self._handle_mounts(mounts)
        writer = Writer()
        writer.u32(self._version())
        yield writer.getvalue()
        yield from self._live.encode_inodes(
            {} if self._by_handle else others,
            self._by_handle,
            set(named),
            self._config.verify_handles,
            self._by_handle,
            True,
        )
        next_inode, next_handle = self._live.next_ids()
        writer = Writer()
        writer.u64(next_inode)
        writer.raw(self._live.encode_files(_NOT_REOPENED))
        writer.u64(next_handle)
        init_flags = self._live.session()[3]
        for flag in (WRITEBACK_CACHE, SUBMOUNTS, POSIX_ACL, CREATE_SUPP_GROUP):
            writer.boolean(bool(init_flags & flag))
        if self._version() == codec.VERSION_2:
            writer.u64(len(named))
            for mount, path in named.items():
                writer.u64(mount)
                writer.string(path.decode("utf-8"))
        yield writer.getvalue()

    def _handle_mounts(self, mounts: dict[int, bytes]) -> dict[int, bytes]:
        """Those on which inodes go by handle: the state can say where they are."""
        return {mount: path for mount, path in mounts.items() if _is_utf8(path)} if self._by_handle else {}

    # ---- what could not be located
    # ---------------------------------------------------------------------------------------

    def _roots_without_path(self, findings: Findings, listed: list[Mount]) -> list[MountRoot]:
        """Of mounts with inodes of the guest that are not listed. Where they are gone, these are lost:

        1. "m/file" is seen, on the file system that is mounted at "m"; 2. somebody unmounts that lazily; 3. the mounts
        are listed, and "m" is none; 4. the state says "m/file", and the destination takes what lies beneath, if it has
        that name, type and size.
        """
        unlisted = set(self._live.mounts()) - {mount.mount_id for mount in listed}
        if not listed or not unlisted:
            return []
        present = self._share.mount_ids()
        gone: dict[int, bool] = {}
        roots: list[MountRoot] = []
        astray: list[int] = []
        for number, mount, is_root in self._live.on_mounts(unlisted):
            if number in findings.unlinked or number in findings.lost:
                continue
            if mount not in gone or is_root:
                with suppress(KeyError, OSError):
                    fd = self._live.open(number)
                    try:
                        gone[mount] = present is not None and mount_id(fd) not in present
                        found = self._share.identity_of(fd) if is_root else None
                    finally:
                        os.close(fd)
                    if found is not None and not gone[mount]:
                        roots.append(MountRoot(number, found))
            # A path from the root leads by no root of a mount that could be told.
            if gone.get(mount, True) or number in findings.paths:
                astray.append(number)
        for number in astray:
            findings.lost[number] = (errno.ENOENT, locate.UNMOUNTED)
            findings.paths.pop(number, None)
        self._live.misplace(astray)
        return roots

    def _sort_out(
        self, findings: Findings, files: list[tuple[int, int, int, int, int, bool, int]]
    ) -> tuple[list[Lost], set[int]]:
        """Logs what is lost; (what is lost, unlinked inodes that nothing has open and that the state leaves out)."""
        opened = {inode for _, inode, *_ in files}
        # What the source keeps an fd of is alive as long as it is: a file handle finds it then, also for virtiofsd.
        idle = [number for number in findings.unlinked if number not in opened and not self._lives_on(number)]
        gone = [
            number
            for number, (code, _) in findings.lost.items()
            if code in (errno.ESTALE, errno.ENOENT) and number not in opened
        ]
        before = self._live.lost_before()
        # Stale for the guest already, and nowhere to be looked for: it stays so, however often the guest moves.
        stale = [
            number for number, code, _, name in before if code == errno.ESTALE and not name and number not in opened
        ]
        left_out = self._live.leave_out([*idle, *gone, *stale])
        lost: list[Lost] = []
        for number, (code, reason) in sorted(findings.lost.items()):
            if number in left_out:
                lost.append(Lost(number, self._live.facts(number)[2], errno.ESTALE, reason))
            else:
                lost.append(Lost(number, 0, code, reason))
        # A busy guest forgets late what it has removed: that is no loss.
        self._log_lost([one for one in lost if not one.refcount or findings.lost[one.inode][0] != errno.ESTALE])
        again = [
            Lost(number, self._live.facts(number)[2] if number in left_out else 0, code, _LOST_BEFORE)
            for number, code, _, _ in before
        ]
        self._log_lost([one for one in again if not one.refcount])
        return lost + again, left_out & findings.unlinked

    def _lives_on(self, number: int) -> bool:
        """Of an unlinked inode in file-handles mode: whether its handle will be good as long as the source runs."""
        return self._by_handle and self._live.facts(number)[4] and number not in self._live.hollow()

    def _log_lost(self, lost: list[Lost]) -> None:
        """One line a cause."""
        causes: dict[str, list[int]] = {}
        for one in lost:
            causes.setdefault(one.reason, []).append(one.inode)
        for reason, numbers in causes.items():
            listed = _listed([self._name(number) for number in numbers])
            _LOG.warning("Migration: can't be located, because %s: %s.", reason, listed)

    def _name(self, number: int) -> str:
        with suppress(KeyError):
            name = self._live.where(number)[1]
            if name:
                return f"inode {number} ({os.fsdecode(name)!r})"
        return f"inode {number}"

    # ---- the trailer
    # -----------------------------------------------------------------------------------------------------

    def _records(
        self,
        findings: Findings,
        files: list[tuple[int, int, int, int, int, bool, int]],
        mounts: dict[int, bytes],
        listed: list[Mount],
        roots: list[MountRoot],
        lost: list[Lost],
        dead: set[int],
    ) -> Iterator[Record | Packed]:
        _, major, minor, flags, max_readahead, max_write = self._live.session()
        yield Negotiated(major, minor, flags, max_write, max_readahead, MAX_PAGES, 1, self._options)
        if listed:
            yield Mounts(tuple(listed))
        known = [mount.mount_id for mount in listed]
        handleless = findings.hidden | self._live.hollow()
        for payload in self._live.identities(known, self._by_handle, IDENTITIES_PER_RECORD, handleless):
            yield Packed(InodeIdentities, payload)
        folders = self._live.folders()
        if folders[0]:
            yield Folders(self._ground.ahead_ns, *folders)
        names = [Name(*found) for found in self._live.odd_names()]
        names += [Name(number, 0, path) for number, path in findings.paths.items() if not _is_utf8(path)]
        # Only for those whom the state has nothing better for.
        by_handle = self._handle_mounts(mounts)
        names = [name for name in names if not self._live.goes_by_handle(name.inode, set(by_handle))]
        # Where the next destination may find them again; the guest may have forgotten the directory before the file.
        names += [
            Name(number, parent, name)
            for number, _, parent, name in self._live.lost_before()
            if name and self._live.has_record(parent)
        ]
        if names:
            yield Names(tuple(names))
        roots += [
            MountRoot(number, self._lost_mounts[number])
            for number, _, _, name in self._live.lost_before()
            if name and number in self._lost_mounts and self._live.has_record(number)
        ]
        if roots:
            yield MountRoots(tuple(roots))
        lost = list(lost)
        yield from self._half_read(files)
        yield from self._unlinked(findings, files, dead, lost)
        if lost:
            yield LostInodes(tuple(lost))

    def _mount_records(self, mounts: dict[int, bytes]) -> list[Mount]:
        listed: list[Mount] = []
        for number, path in mounts.items():
            with suppress(OSError):
                fd = os.dup(self._share.root_fd) if path == b"." else self._share.open(path)
                try:
                    # Something else may have been mounted there meanwhile.
                    found = self._share.identity_of(fd) if self._live.mount_id(fd) == number else None
                finally:
                    os.close(fd)
                if found is not None and (listed or path == b"."):
                    listed.append(Mount(number, path, found))
        return listed

    def _half_read(self, files: list[tuple[int, int, int, int, int, bool, int]]) -> Iterator[Record]:
        left = HALF_READ_BYTES
        too_large: list[int] = []
        unreadable: list[int] = []
        for handle, inode, _, fd, _, directory, position in files:
            if not directory or fd < 0:
                continue
            carried = self._live.carried(handle)
            if not carried and position == 0:
                continue
            try:
                found = (carried[0][0], carried[1:]) if carried else self._live.rest_of(handle, left)
            except (KeyError, OSError) as error:
                # One that was removed has nothing more in it.
                if not isinstance(error, FileNotFoundError):
                    unreadable.append(inode)
                continue
            if found is None:
                too_large.append(inode)
                continue
            start, rest = found
            if start or rest:
                left = max(0, left - sum(ENTRY_BYTES + len(name) for *_, name in rest))
                yield HalfRead(handle, start, tuple(DirectoryEntry(*entry) for entry in rest), True)
        if too_large:
            _LOG.warning(
                "Migration: %d open directories go on at this host's own offsets, because more than %d MiB of entries "
                "would travel: %s.",
                len(too_large),
                HALF_READ_BYTES >> 20,
                _listed([self._name(number) for number in too_large]),
            )
        if unreadable:
            _LOG.warning(
                "Migration: %d open directories can't be read on, and go on at this host's own offsets: %s. Where the "
                "destination has other ones, names are missing or come twice.",
                len(unreadable),
                _listed([self._name(number) for number in unreadable]),
            )

    def _carries(self, hidden: bool) -> bool:
        """A hidden file is gone when the source ends, so a handle of it is worth nothing."""
        chosen = self._config.unlinked
        if chosen is None:
            return hidden or not self._by_handle
        return chosen is UnlinkedMode.CARRY

    def _unlinked(
        self,
        findings: Findings,
        files: list[tuple[int, int, int, int, int, bool, int]],
        dead: set[int],
        lost: list[Lost],
    ) -> Iterator[Record]:
        """Content of those that are open, attributes of the others; what can't travel is added to ``lost``."""
        started = time.monotonic()
        before = len(lost)
        budget = self._config.unlinked_limit
        opened: dict[int, int] = {}
        for _, inode, _, fd, *_ in files:
            if fd >= 0:
                opened.setdefault(inode, fd)
        carried = 0
        nameless: list[int] = []
        for number in sorted(findings.unlinked):
            if number in dead:
                with suppress(KeyError, OSError):
                    yield self._attributes(number, self._live.facts(number)[2])
                continue
            if number not in opened and self._by_handle:
                with suppress(KeyError, OSError):
                    yield self._attributes(number, 0)
                continue
            if not self._carries(number in findings.hidden):
                if self._by_handle and number not in findings.hidden:
                    nameless.append(number)
                elif not self._by_handle:
                    lost.append(Lost(number, 0, errno.ENOENT, "its last name is gone (--migration-unlinked=lost)"))
                continue
            try:
                if number not in opened or not stat.S_ISREG(os.fstat(opened[number]).st_mode):
                    yield self._attributes(number, 0)
                    continue
                fd = self._share.reopen(opened[number], os.O_RDONLY | os.O_NONBLOCK)
            except (KeyError, OSError) as error:
                reason = reason_of(error) if isinstance(error, OSError) else "it is gone"
                lost.append(Lost(number, 0, errno.EIO, reason))
                continue
            try:
                cost = unlinked.content_bytes(fd)
                if carried + cost > budget:
                    reason = "its last name is gone and its content exceeds --migration-unlinked-limit"
                    lost.append(Lost(number, 0, errno.ENOENT, reason))
                    continue
                carried += cost
                record = unlinked.attributes(fd, number, 0, True)
                yield record
                yield from unlinked.contents(fd, record)
            finally:
                os.close(fd)
        if nameless:
            yield Nameless(tuple(nameless))
        self._log_lost(lost[before:])
        if carried:
            _LOG.info(
                "Migration: %d bytes of unlinked files carried in %.0f ms.",
                carried,
                1000 * (time.monotonic() - started),
            )

    def _attributes(self, number: int, refcount: int) -> Unlinked:
        fd = self._live.open(number)
        try:
            return unlinked.attributes(fd, number, refcount, False)
        finally:
            os.close(fd)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _threads() -> int:
    return len(os.sched_getaffinity(0))


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
