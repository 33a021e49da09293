"""Hypothesis strategies for states: of any field values, and of such as pass the door."""

from __future__ import annotations

from typing import TypeVar

from hypothesis import strategies as st

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
    State,
    StateV1,
    StateV2,
)

u64 = st.integers(0, (1 << 64) - 1)
i32 = st.integers(-(1 << 31), (1 << 31) - 1)
text = st.text(st.characters(codec="utf-8"), max_size=12)
file_handles = st.builds(FileHandle, u64, i32, st.binary(max_size=140))
options = st.builds(Options, st.booleans(), st.booleans(), st.booleans(), st.booleans())
locations: st.SearchStrategy[Location] = st.one_of(
    st.just(RootNode()),
    st.builds(Path, u64, text),
    st.just(Invalid()),
    st.builds(FullPath, text),
    st.builds(ByHandle, file_handles),
)
inodes = st.builds(Inode, u64, u64, locations, st.none() | file_handles)
handles = st.builds(Handle, u64, u64, i32)


T = TypeVar("T")


def _tuples(items: st.SearchStrategy[T]) -> st.SearchStrategy[tuple[T, ...]]:
    return st.lists(items, max_size=6).map(tuple)


any_v1 = st.builds(StateV1, _tuples(inodes), u64, _tuples(handles), u64, options)
any_state: st.SearchStrategy[State] = st.one_of(
    any_v1, st.builds(StateV2, any_v1, _tuples(st.builds(MountPath, u64, text)))
)

names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..")
)
good_file_handles = st.builds(FileHandle, st.integers(0, 3), i32, st.binary(max_size=128))


@st.composite
def good_state(draw: st.DrawFn) -> State:
    """A state that ``validate`` passes: a tree of inodes in any order, open files, mounts."""
    root_handle = draw(st.none() | good_file_handles)
    children: dict[int, int] = {}
    made: list[tuple[int, Location]] = []
    ids = [1]
    for number in draw(st.lists(st.integers(2, 1 << 62), unique=True, max_size=12)):
        location: Location = draw(
            st.one_of(
                st.builds(Path, st.sampled_from(ids), names),
                st.just(Invalid()),
                st.builds(FullPath, st.lists(names, min_size=1, max_size=3).map("/".join)),
                st.builds(ByHandle, good_file_handles),
            )
        )
        if isinstance(location, Path):
            children[location.parent] = children.get(location.parent, 0) + 1
        ids.append(number)
        made.append((number, location))
    records = [Inode(1, 2 + children.get(1, 0), RootNode(), root_handle)]
    for number, location in made:
        lookups = draw(st.integers(0, 1 << 61))
        records.append(Inode(number, lookups + children.get(number, 0), location, draw(st.none() | good_file_handles)))
    open_ids = draw(st.lists(st.integers(0, 1 << 62), unique=True, max_size=6))
    opens = tuple(Handle(number, draw(st.sampled_from(ids)), draw(i32)) for number in open_ids)
    v1 = StateV1(
        tuple(draw(st.permutations(records))),
        max(ids) + 1,
        opens,
        max(open_ids, default=0) + 1,
        draw(options),
    )
    if draw(st.booleans()):
        return v1
    mounts = draw(st.dictionaries(u64, st.just(".") | names, max_size=3))
    return StateV2(v1, tuple(MountPath(number, path) for number, path in mounts.items()))
