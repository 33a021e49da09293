"""Source and destination in this process: a real device each, on a real directory, and the guest that moves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from engine_guest import Call, Guest

from ferryfs.errors import FerryError
from ferryfs.migration.capture import Capture
from ferryfs.migration.identity import boot_id
from ferryfs.migration.live_source import LiveSource
from ferryfs.migration.migrator import LOAD, PHASE_STOPPED, SAVE, Migrator
from ferryfs.migration.options import relied_on
from ferryfs.migration.share import Share
from ferryfs.passthrough.config import MigrationConfig, MigrationMode, OnError, ShareConfig
from ferryfs.wire.fuse import FORGET_IN, READ_IN, WRITE_IN, Op

FIND_PATHS = MigrationConfig()
FILE_HANDLES = MigrationConfig(mode=MigrationMode.FILE_HANDLES)
GUEST_ERROR = MigrationConfig(on_error=OnError.GUEST_ERROR)
MODES = (FIND_PATHS, FILE_HANDLES)


def mode_of(config: object) -> str:
    """Names a parameter."""
    return config.mode.value if isinstance(config, MigrationConfig) else str(config)


class Side:
    """A daemon's part in migrations, with its guest."""

    def __init__(
        self,
        shared: Path,
        migration: MigrationConfig = FIND_PATHS,
        config: ShareConfig | None = None,
        *,
        host: bytes | None = None,
        init: bool = True,
    ) -> None:
        """``host``: the boot id that it believes to run under. ``init``: the guest mounts."""
        self.guest = Guest(shared, config, init=init)
        self.share = Share(
            os.open(shared, os.O_PATH | os.O_DIRECTORY),
            os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY),
            os.open("/proc/self/mountinfo", os.O_RDONLY),
            os.path.realpath(shared),
            boot_id() if host is None else host,
        )
        self.config = migration
        self.share_config = config or ShareConfig()
        self.migrator = Migrator(self.guest.device, migration, self.share_config, self.share)
        self._bases: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.migrator.close()
        self.guest.close()
        for fd in (self.share.root_fd, self.share.proc_self_fd, self.share.mountinfo_fd):
            os.close(fd)

    # The front-end's part.

    def stop(self) -> None:
        self._bases = [self.guest.device.get_vring_base(index) for index in range(len(self.guest.queues))]

    def go_on(self, *, told: bool = True) -> None:
        """``told``: whether the migrator hears of it."""
        for index, base in enumerate(self._bases):
            if told:
                self.migrator.ring_starts()
            self.guest.start_ring(index, base)

    def save(self) -> bytes:
        """The state of a stopped guest. Raises AssertionError when it can't be had."""
        fd = os.memfd_create("state")
        try:
            self.migrator.begin(SAVE, PHASE_STOPPED, fd)
            assert self.migrator.check() == 0
            return os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)

    def load(self, data: bytes) -> None:
        """Raises FerryError."""
        fd = os.memfd_create("state")
        try:
            os.pwrite(fd, data, 0)
            self.migrator.begin(LOAD, PHASE_STOPPED, fd)
            assert self.migrator.check() == 0
        finally:
            os.close(fd)

    def capture(self) -> Capture:
        """A source's side that is driven step by step."""
        lost_mounts = self.migrator.lost_mounts
        return Capture(
            LiveSource(self.guest.device), self.config, self.share, relied_on(self.share_config), lost_mounts
        )

    # The guest's part.

    def walk(self, path: str) -> int:
        node = 1
        for name in path.split("/"):
            node = self.guest.lookup(os.fsencode(name), node)
        return node

    def forget(self, node: int, count: int = 1) -> None:
        assert self.guest.send(Call(Op.FORGET, node, FORGET_IN.pack(nlookup=count), room=0)).silent

    def read(self, node: int, fh: int, size: int = 4096) -> bytes:
        return self.guest.ask(Op.READ, node, READ_IN.pack(fh=fh, size=size))

    def write(self, node: int, fh: int, data: bytes, offset: int = 0) -> None:
        self.guest.ask(Op.WRITE, node, WRITE_IN.pack(fh=fh, offset=offset, size=len(data)) + data)

    def unlink(self, name: str, parent: int = 1) -> None:
        self.guest.ask(Op.UNLINK, parent, os.fsencode(name) + b"\0")


@contextmanager
def moved(source: Side, config: MigrationConfig, shared: Path | None = None) -> Iterator[Side]:
    """A fresh daemon with the source's guest, which is stopped there."""
    source.stop()
    with loaded(source.save(), shared or source.guest.shared, config) as destination:
        yield destination


@contextmanager
def loaded(
    data: bytes, shared: Path, config: MigrationConfig = FIND_PATHS, share_config: ShareConfig | None = None
) -> Iterator[Side]:
    with Side(shared, config, share_config, init=False) as destination:
        destination.stop()
        destination.load(data)
        destination.go_on()
        yield destination


def refusal(data: bytes, shared: Path, config: MigrationConfig = FIND_PATHS) -> str:
    """Why a state can't be loaded there; nothing of it may stay behind."""
    with Side(shared, config, init=False) as destination:
        destination.stop()
        try:
            destination.load(data)
        except FerryError as error:
            assert destination.guest.device.inode_count == 1
            assert destination.guest.device.handle_count == 0
            return str(error)
    raise AssertionError("it was loaded")
