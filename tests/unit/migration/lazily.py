"""A destination that has taken a state lazily, and what its guest sees of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ferryfs.migration import deferred
from ferryfs.passthrough.config import (
    MigrationConfig,
    RestoreMode,
)
from ferryfs.wire.fuse import ATTR_OUT, Op
from migration.sides import MODES, Side, mode_of

both_modes = pytest.mark.parametrize("config", [replace(mode, restore=RestoreMode.LAZY) for mode in MODES], ids=mode_of)

NAMES = ("README", "docs/old", "docs/old/one", "docs/old/two", "docs/new/one", "src", "src/main.c")


def build(folder: Path) -> Path:
    """Makes what NAMES names, each file with its own path as content."""
    for name in ("docs/old", "docs/new", "src"):
        (folder / name).mkdir(parents=True)
    for name in ("README", "docs/old/one", "docs/old/two", "docs/new/one", "src/main.c"):
        (folder / name).write_text(name)
    return folder


def number(side: Side, node: int) -> int:
    """The host's number of what the guest gets for a nodeid."""
    return ATTR_OUT.unpack(side.guest.ask(Op.GETATTR, node, bytes(16)))["attr_ino"]


def trouble(side: Side, node: int) -> int:
    return side.guest.refused(Op.GETATTR, node, bytes(16))


def unproven(side: Side) -> set[int]:
    return set(deferred.unproven(side.guest.device))


def proven_in_background(side: Side) -> None:
    """Comes back when the destination has looked at everything."""
    proving = side.migrator.proving
    assert proving is not None
    proving.wait()


@contextmanager
def lazily_loaded(data: bytes, share: Path, config: MigrationConfig) -> Iterator[Side]:
    """A destination that proves nothing in the background: its migrator is not told that the rings start."""
    with Side(share, config, init=False) as destination:
        destination.stop()
        destination.load(data)
        destination.go_on(told=False)
        yield destination


@contextmanager
def arrived(
    share: Path, config: MigrationConfig, meanwhile: Callable[[], object] = lambda: None
) -> Iterator[tuple[Side, dict[str, int], dict[str, int]]]:
    """A destination that was loaded after ``meanwhile``; nodeids and the host's numbers of NAMES before it."""
    with Side(share, config) as source:
        nodes = {name: source.walk(name) for name in NAMES}
        numbers = {name: (share / name).lstat().st_ino for name in NAMES}
        source.stop()
        data = source.save()
        meanwhile()
        with lazily_loaded(data, share, config) as destination:
            assert unproven(destination) >= set(nodes.values())
            yield destination, nodes, numbers
