"""The door: from a good state, one field at a time is spoilt, and the error names it."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from ferryfs.errors import StateError
from ferryfs.migration.state import (
    ByHandle,
    FileHandle,
    FullPath,
    Handle,
    Inode,
    Invalid,
    Location,
    MountPath,
    Options,
    Path,
    RootNode,
    StateV1,
    StateV2,
    name_fault,
    path_fault,
    validate,
)

OPTIONS = Options(False, True, False, True)


def state(
    *inodes: Inode,
    handles: tuple[Handle, ...] = (),
    next_inode: int = 100,
    next_handle: int = 100,
    mounts: tuple[MountPath, ...] = (),
) -> StateV2:
    """A root with room for nine children, and what is given."""
    root = Inode(1, 11, RootNode(), None)
    return StateV2(StateV1((root, *inodes), next_inode, handles, next_handle, OPTIONS), mounts)


def at(location: Location, number: int = 2) -> Inode:
    return Inode(number, 1, location, None)


GOOD = [
    StateV2(StateV1((), 2, (), 1, OPTIONS), ()),
    StateV2(StateV1((), 2, (), 1, OPTIONS), (MountPath(3, "."),)),
    state(),
    state(at(Path(1, "a")), mounts=(MountPath(3, "."), MountPath(4, "a/b"))),
    state(at(Path(3, "a")), Inode(3, 1, Path(1, "b"), None)),
    state(at(Path(3, "a")), at(Invalid(), 3)),
    state(at(FullPath("a/b")), at(ByHandle(FileHandle(9, 1, bytes(128))), 3)),
    state(Inode(2, 1 << 60, Path(1, "a"), FileHandle(1, -5, b""))),
    state(at(Path(1, "a")), handles=(Handle(1, 2, 0), Handle(0, 1, 0o200000)), next_handle=2),
    state(at(Path(1, "...")), at(Path(1, "a" * 1000), 3), at(FullPath("a" * 200 + "/b" * 3000), 4)),
]


@pytest.mark.parametrize("good", GOOD)
def test_good(good: StateV2) -> None:
    """All of these are legal, in both versions."""
    assert good is validate(good)
    assert good.v1 is validate(good.v1)


BAD: list[tuple[StateV2, str]] = [
    (state(at(Path(1, "a")), at(Path(1, "b"))), r"two inodes have the same number \(2\)"),
    (state(Inode(1, 2, RootNode(), None)), r"two inodes have the same number \(1\)"),
    (state(at(RootNode())), r"number 1 the root \(inode 2 is RootNode\)"),
    (replace(state(), v1=StateV1((at(Path(1, "a"), 1),), 9, (), 1, OPTIONS)), r"inode 1 is Path"),
    (replace(state(), v1=StateV1((at(Invalid(), 1),), 9, (), 1, OPTIONS)), r"inode 1 is Invalid"),
    (replace(state(), v1=StateV1((at(Invalid()),), 9, (), 1, OPTIONS)), r"there are inodes but no root"),
    (state(at(Invalid(), 0)), r"an inode has the number 0"),
    (state(at(Path(7, "a"))), r"a parent is missing \(inode 2 is in 7\)"),
    (state(at(Path(2, "a"))), r"in a loop \(inode 2\)"),
    (state(at(Path(3, "a")), at(Path(2, "b"), 3)), r"in a loop"),
    (state(at(Path(3, "a")), at(Path(4, "b"), 3), at(Path(3, "c"), 4)), r"in a loop"),
    (state(*(at(Path(1, str(n)), n) for n in range(2, 14))), r"fewer references than it has children \(inode 1\)"),
    (state(at(Path(3, "a")), Inode(3, 0, Path(1, "b"), None)), r"fewer references than it has children \(inode 3\)"),
    (state(at(Path(1, ""))), r"a file name is empty \(inode 2"),
    (state(at(Path(1, ".."))), r"a file name is a directory's name for itself or its parent"),
    (state(at(Path(1, "."))), r"a file name is a directory's name for itself or its parent"),
    (state(at(Path(1, "a/b"))), r"a file name contains a '/'"),
    (state(at(Path(1, "a\0b"))), r"a file name contains a NUL"),
    (state(at(Path(1, "a" * 4096))), r"a file name is longer than 4095 bytes"),
    (state(at(FullPath(""))), r"a path is empty"),
    (state(at(FullPath("/etc/passwd"))), r"a path is absolute"),
    (state(at(FullPath("a/../../b"))), r"a path has a component that is a directory's name"),
    (state(at(FullPath("a//b"))), r"a path has a component that is empty"),
    (state(at(FullPath("a/b/"))), r"a path has a component that is empty"),
    (state(at(FullPath("a/\0"))), r"a path has a component that contains a NUL"),
    (state(at(FullPath("."))), r"a path has a component"),
    (state(at(ByHandle(FileHandle(1, 1, bytes(129))))), r"longer than 128 bytes \(inode 2: 129\)"),
    (state(Inode(2, 1, Path(1, "a"), FileHandle(1, 1, bytes(4000)))), r"longer than 128 bytes"),
    (state(handles=(Handle(1, 2, 0),)), r"inode that is missing \(handle 1 of inode 2\)"),
    (state(handles=(Handle(1, 1, 0), Handle(1, 1, 0))), r"two open files have the same number \(1\)"),
    (state(handles=(Handle(1, 1, 0),), next_handle=1), r"the next handle number is in use"),
    (state(at(Path(1, "a"), 100)), r"the next inode number is in use \(100"),
    (state(next_inode=1), r"the next inode number is in use"),
    (state(mounts=(MountPath(1, "."), MountPath(1, "a"))), r"a mount has two paths \(1\)"),
    (state(mounts=(MountPath(1, "/mnt"),)), r"the path of a mount is absolute"),
    (state(mounts=(MountPath(1, "../x"),)), r"the path of a mount has a component"),
    (state(mounts=(MountPath(1, ""),)), r"the path of a mount is empty"),
]


@pytest.mark.parametrize(("bad", "said"), BAD)
def test_bad(bad: StateV2, said: str) -> None:
    """Each fault is found, in one sentence."""
    with pytest.raises(StateError, match=said) as caught:
        validate(bad)
    assert str(caught.value).startswith("the migration state can't be loaded: ")
    assert "\n" not in str(caught.value)


def test_handles_without_any_inode() -> None:
    """A state without inodes has no open files."""
    with pytest.raises(StateError, match="inode that is missing"):
        validate(StateV1((), 2, (Handle(1, 1, 0),), 2, OPTIONS))


def test_many_faults_make_one_short_text() -> None:
    """A million faults of a kind are counted, not listed."""
    with pytest.raises(StateError, match=r"99,?997 more|9997 more") as caught:
        validate(state(*(at(Path(1, "a/b"), n) for n in range(2, 10002)), next_inode=20000))
    assert len(str(caught.value)) < 1000


def test_a_long_chain_and_a_wide_directory_are_linear() -> None:
    """Neither recursion nor a second look at an inode: ten times as many take about ten times as long."""

    def seconds(count: int) -> float:
        chain = tuple(Inode(n, 2, Path(n - 1, "d"), None) for n in range(2, count))
        deep = state(*reversed(chain), next_inode=count + 1)
        wide = StateV1(
            (Inode(1, count, RootNode(), None), *(Inode(n, 1, Path(1, "f"), None) for n in range(2, count))),
            count + 1,
            (),
            1,
            OPTIONS,
        )
        start = time.process_time()
        validate(deep)
        validate(wide)
        return time.process_time() - start

    small = min(seconds(2_000) for _ in range(3))
    assert seconds(20_000) < 40 * small


@pytest.mark.parametrize("good", ["a", "...", ".nfs1", "a b", "\xff", b"\xff\xfe"])
def test_names_that_are(good: str | bytes) -> None:
    """Odd, but names."""
    assert name_fault(good) == ""
    assert path_fault(good) == ""
