"""Our streams in the real virtiofsd: with our trailer behind them they load and serve, and cut ones do not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ferryfs.migration import _syscalls, codec, state, stream
from ferryfs.migration.state import (
    ByHandle,
    FileHandle,
    FullPath,
    Handle,
    Inode,
    Invalid,
    MountPath,
    Options,
    RootNode,
    StateV1,
    StateV2,
)
from ferryfs.migration.trailer_records import Lost, LostInodes, Mounts, Name, Names, Negotiated, Record, Unlinked
from golden.peer import VERSIONS, Peer, Refused, missing, running
from golden.scenarios import Known, build, busy

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.parametrize("version", VERSIONS),
]

# To open file handles; version 1.13 drops the capability by default.
OPENS_HANDLES = "--modcaps=+dac_read_search"
OPTIONS = Options(False, True, False, True)


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Path]:
    build(tmp_path)
    return tmp_path


def by_hand(share: Path) -> StateV2:
    """Every kind of location, as our own source would write them."""
    fd = os.open(share, os.O_PATH)
    try:
        handle_type, handle, mount_id = _syscalls.name_to_handle_at(fd, b"README", 0)
    finally:
        os.close(fd)
    inodes = (
        Inode(9, 1, state.Path(4, "main.c"), None),
        Inode(4, 1, state.Path(1, "src"), None),
        Inode(1, 3, RootNode(), None),
        Inode(11, 7, FullPath("src/deep/deeper/naïve ☃.txt"), None),
        Inode(12, 1, ByHandle(FileHandle(mount_id, handle_type, handle)), None),
    )
    opens = (
        Handle(3, 9, os.O_RDONLY),
        Handle(5, 11, os.O_RDWR),
        Handle(6, 12, os.O_RDONLY),
        Handle(7, 1, os.O_DIRECTORY),
    )
    return StateV2(StateV1(inodes, 13, opens, 8, OPTIONS), (MountPath(mount_id, "."),))


def trailer_for(found: state.State) -> list[Record]:
    return [
        Negotiated(7, 38, 1 << 40, 1 << 20, 1 << 17, 256, 1, ("xattr",)),
        Mounts(()),
        *(
            Unlinked(inode.id, 0, 0o100644, 0, 0, 0, 10, 0, 0, False, b"", ())
            for inode in state.body(found).inodes
            if inode.id == 9
        ),
    ]


def serves(peer: Peer) -> None:
    """The open files of ``by_hand`` are what they were."""
    peer.start_queues()
    assert peer.read(9, 3) == b"int main(void) { return 0; }\n"
    assert peer.read(11, 5) == b"snow\n"
    assert peer.read(12, 6) == b"read me\n"
    with pytest.raises(OSError, match="No such file"):
        peer.lookup(1, b"missing")
    assert peer.lookup(1, b"link") == 13


def test_a_stream_with_our_trailer_loads(version: str, share: Path) -> None:
    """Padded count, trailer and all: CHECK_DEVICE_STATE is good, and the guest goes on reading."""
    found = by_hand(share)
    data = b"".join(stream.save(found, trailer_for(found)))
    assert stream.load(data).trailer is not None
    with running(version, share, OPENS_HANDLES) as peer:
        assert peer.load(data)
        serves(peer)


def test_without_a_trailer_too(version: str, share: Path) -> None:
    """The same without."""
    with running(version, share, OPENS_HANDLES) as peer:
        assert peer.load(codec.encode(by_hand(share)))
        serves(peer)


def test_cut_in_the_state_it_fails(version: str, share: Path) -> None:
    """Wherever the state itself is cut the daemon refuses; we refuse it cut in the trailer as well."""
    found = by_hand(share)
    whole = b"".join(stream.save(found, trailer_for(found)))
    end = len(codec.encode(found, trailer_follows=True))
    with running(version, share, OPENS_HANDLES) as peer:
        for length in [*range(0, end, 7), end - 1]:
            assert not peer.load(whole[:length]), f"cut at {length}"
        assert peer.load(whole), "a daemon that refused can be loaded again"


def test_a_name_that_is_not_utf8_is_invalid_there(version: str, share: Path) -> None:
    """With guest-error, what only our trailer can name is lost at virtiofsd, and nothing else is."""
    found = by_hand(share)
    v1 = replace(found.v1, inodes=(*found.v1.inodes, Inode(20, 1, Invalid(), None)), next_inode=21)
    records = [Names((Name(20, 1, b"caf\xe9"),)), LostInodes((Lost(20, 0, 2, "a name that is not UTF-8"),))]
    data = b"".join(stream.save(replace(found, v1=v1), records))
    with running(version, share, OPENS_HANDLES) as peer:
        assert not peer.load(data), "on-error is abort by default"
    with running(version, share, OPENS_HANDLES, "--migration-on-error=guest-error") as peer:
        assert peer.load(data)
        peer.start_queues()
        assert peer.read(9, 3) == b"int main(void) { return 0; }\n"


def test_a_busy_guest_through_our_codec(version: str, share: Path) -> None:
    """From a live virtiofsd through our decoder, our encoder and a trailer into another one, and back out of that."""
    known = Known()
    with running(version, share) as source:
        source.start_queues()
        busy(source, share, known)
        source.stop_queues()
        first = source.save()
    found = stream.load(first)
    data = b"".join(stream.save(found.state, [LostInodes(())]))
    with running(version, share) as destination:
        assert destination.load(data)
        destination.start_queues()
        node, handle = next((node, handle) for handle, (node, flags) in known.handles.items() if flags == os.O_RDONLY)
        assert destination.read(node, handle) == b"read me\n"
        destination.stop_queues()
        again = stream.load(destination.save()).state

    def facts(one: state.State) -> tuple[set[int], set[Handle], int, int]:
        v1 = state.body(one)
        return {inode.id for inode in v1.inodes}, set(v1.handles), v1.next_inode, v1.next_handle

    assert facts(found.state) == facts(again)


def test_what_the_door_refuses_they_refuse_or_lose(version: str, share: Path) -> None:
    """Loops, missing parents and a second root: neither daemon takes them."""
    found = by_hand(share)
    root = found.v1.inodes[2]
    for bad in (
        (root, Inode(2, 1, state.Path(3, "src"), None), Inode(3, 1, state.Path(2, "deep"), None)),
        (root, Inode(2, 1, state.Path(77, "src"), None)),
        (root, Inode(2, 2, RootNode(), None)),
    ):
        broken = StateV2(StateV1(bad, 10, (), 1, OPTIONS), ())
        with pytest.raises(state.StateError):
            state.validate(broken)
        with running(version, share) as peer:
            try:
                assert not peer.load(codec.encode(broken))
            except Refused as error:
                pytest.fail(f"the reference daemon died of it: {error}")
