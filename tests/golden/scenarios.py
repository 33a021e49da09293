"""What the golden streams were recorded from: a share, and what a guest does in it before its state is saved."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from golden.peer import Peer

# FUSE_INIT flags that the guest asks for: all of the first word, as Linux does for what it knows, and
# FUSE_CREATE_SUPP_GROUP.
INIT_FLAGS = 0xFFFFFFFF | 1 << 34


def build(share: Path) -> None:
    """The directory that is shared."""
    (share / "src" / "deep" / "deeper").mkdir(parents=True)
    (share / "README").write_text("read me\n")
    (share / "src" / "main.c").write_text("int main(void) { return 0; }\n")
    (share / "src" / "deep" / "deeper" / "naïve ☃.txt").write_text("snow\n")
    (share / "link").symlink_to("src/main.c")
    os.link(share / "README", share / "src" / "hard")
    os.mkfifo(share / "fifo")
    (share / "log").write_text("")
    (share / "mnt").mkdir()
    (share / "gone").write_text("soon\n")


@dataclass
class Known:
    """What the guest knows when the state is saved: the facts that a decoded state must agree with."""

    # nodeid -> path in the share; and how often it was looked up.
    paths: dict[int, str] = field(default_factory=dict)
    lookups: dict[int, int] = field(default_factory=dict)
    # handle -> (nodeid, flags)
    handles: dict[int, tuple[int, int]] = field(default_factory=dict)

    def look(self, peer: Peer, path: str) -> int:
        """Looks up every component, as a guest does that has none of them in its cache."""
        node, walked = 1, ""
        for name in path.split("/"):
            node = peer.lookup(node, name.encode())
            walked = f"{walked}/{name}" if walked else name
            self.paths.setdefault(node, walked)
            self.lookups[node] = self.lookups.get(node, 0) + 1
        return node

    def open(self, peer: Peer, path: str, flags: int) -> int:
        node = self.look(peer, path)
        handle = peer.open(node, flags, directory=bool(flags & os.O_DIRECTORY))
        self.handles[handle] = (node, flags)
        return handle


def nothing(peer: Peer, share: Path, known: Known) -> None:
    """The guest has not mounted the share."""


def mounted(peer: Peer, share: Path, known: Known) -> None:
    """The guest has mounted the share and looked at nothing."""
    peer.init(INIT_FLAGS)


def busy(peer: Peer, share: Path, known: Known) -> None:
    """Files of all sorts are cached, some of them open, in several ways; some were forgotten."""
    peer.init(INIT_FLAGS)
    known.open(peer, "README", os.O_RDONLY)
    known.open(peer, "README", os.O_RDWR)
    known.open(peer, "src/main.c", os.O_WRONLY | os.O_TRUNC)
    known.open(peer, "log", os.O_WRONLY | os.O_APPEND)
    known.open(peer, "src/deep", os.O_RDONLY | os.O_DIRECTORY)
    known.look(peer, "src/deep/deeper/naïve ☃.txt")
    known.look(peer, "link")
    known.look(peer, "fifo")
    known.look(peer, "src/hard")
    closed = known.open(peer, "gone", os.O_RDONLY)
    node = known.handles.pop(closed)[0]
    peer.release(node, closed)
    peer.forget(node, known.lookups.pop(node))
    del known.paths[node]
    node, handle = peer.create(1, b"new", os.O_RDWR | os.O_EXCL)
    known.paths[node] = "new"
    known.lookups[node] = 1
    known.handles[handle] = (node, os.O_RDWR)


def submount(peer: Peer, share: Path, known: Known) -> None:
    """As busy, and files on a file system that is mounted in the share."""
    busy(peer, share, known)
    known.open(peer, "mnt/inner/file", os.O_RDONLY)


def unlinked(peer: Peer, share: Path, known: Known) -> None:
    """An open file's only name is gone: the source can't say where it is."""
    busy(peer, share, known)
    known.open(peer, "gone", os.O_RDWR)
    peer.unlink(1, b"gone")


@dataclass(frozen=True)
class Scenario:
    """One golden stream of each version."""

    name: str
    options: tuple[str, ...]
    act: Callable[[Peer, Path, Known], None]


SCENARIOS = (
    Scenario("empty", (), nothing),
    Scenario("mounted", (), mounted),
    Scenario("find-paths", (), busy),
    Scenario("find-paths-verify", ("--migration-verify-handles",), busy),
    Scenario("find-paths-confirm", ("--migration-confirm-paths",), busy),
    Scenario("find-paths-submount", (), submount),
    Scenario("find-paths-unlinked", (), unlinked),
    Scenario("find-paths-options", ("--writeback", "--xattr", "--posix-acl", "--no-announce-submounts"), busy),
    Scenario("file-handles", ("--migration-mode=file-handles",), busy),
    Scenario("file-handles-submount", ("--migration-mode=file-handles",), submount),
    Scenario("file-handles-unlinked", ("--migration-mode=file-handles",), unlinked),
)
