"""A guest of one of our daemons that knows what it holds, for what it must still hold at the next one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from golden.peer import OURS, Peer, running
from golden.scenarios import INIT_FLAGS

FIND_PATHS = "--migration-mode=find-paths"
FILE_HANDLES = "--migration-mode=file-handles"
GUEST_ERROR = "--migration-on-error=guest-error"
MODES = (FIND_PATHS, FILE_HANDLES)


@dataclass
class Held:
    """An open file of the guest."""

    node: int
    handle: int
    content: bytes


@contextmanager
def guest(share: Path, *options: str) -> Iterator[Peer]:
    with running(OURS, share, *options) as peer:
        peer.start_queues()
        peer.init(INIT_FLAGS)
        yield peer


def hold(peer: Peer, share: Path, path: str, flags: int = os.O_RDONLY) -> Held:
    node = peer.walk(os.fsencode(path))
    return Held(node, peer.open(node, flags), (share / path).read_bytes())


def saved(peer: Peer) -> bytes:
    peer.stop_queues()
    return peer.save()


def load(data: bytes, share: Path, *options: str) -> tuple[bool, Peer]:
    peer = Peer(OURS, share, *options)
    try:
        good = peer.load(data)
        if good:
            peer.start_queues()
    except BaseException:
        peer.close()
        raise
    return good, peer
