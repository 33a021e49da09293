"""Somebody on the host, the guest, and migrations, in any order: whatever the guest holds is what it was, or an error.

The content of each file names it; all files have the same size and times, so that only who they are tells them apart.
``FERRYFS_MORE_SEEDS=N`` plays so many more, from ``FERRYFS_FIRST_SEED``.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from engine_guest import Call
from namespaces import needs_mounts

from ferryfs.errors import FerryError
from ferryfs.migration import stream
from ferryfs.migration.collect import ground
from ferryfs.migration.state import FullPath, RootNode, body
from ferryfs.migration.state import Path as Place
from ferryfs.passthrough.config import HandleMode, MigrationConfig, MigrationMode, OnError, RestoreMode, ShareConfig
from ferryfs.wire.fuse import ENTRY_OUT, OPEN_OUT, READ_IN, RELEASE_IN, Op
from migration.sides import Side

FIRST, MORE = (int(os.environ.get(f"FERRYFS_{name}", "0")) for name in ("FIRST_SEED", "MORE_SEEDS"))
SEEDS = range(FIRST, FIRST + 10 + MORE)
HOPS = 4
NAMES = ("a", "b", "c", "d")
# In each directory.
MARK = "who"
MOMENT = (10**9, 10**9)


class Host:
    """Whoever else uses the directory. Files and directories say who they are; directories in a file of theirs."""

    def __init__(self, root: Path, dice: random.Random) -> None:
        self.root = root
        self.beside = root.parent / "beside"
        self.beside.mkdir()
        self.dice = dice
        self.made = 0
        self.log: list[str] = []
        self.make_file(root / MARK)
        for name in NAMES:
            self.make(root / name)
        for _ in range(10):
            with suppress(OSError):
                self.make(self.place())

    def who(self) -> str:
        self.made += 1
        return f"{self.made:08d}"

    def make(self, path: Path) -> None:
        if self.dice.random() < 0.35:
            self.make_directory(path)
            for name in self.dice.sample(NAMES, 2):
                self.make_file(path / name)
        else:
            self.make_file(path)

    def make_file(self, path: Path) -> None:
        with path.open("x") as file:
            file.write(self.who())
        os.utime(path, MOMENT)

    def make_directory(self, path: Path) -> None:
        path.mkdir()
        self.make_file(path / MARK)

    def directories(self) -> list[Path]:
        return [self.root, *(path for path in sorted(self.root.rglob("*")) if path.is_dir())]

    def place(self) -> Path:
        """A name in some directory, taken or not."""
        return self.dice.choice(self.directories()) / self.dice.choice(NAMES)

    def anything(self) -> None:
        path, other = self.place(), self.place()
        works = (self.remove, self.replace, self.rename, self.swap, self.link, self.out, self.back, self.anew)
        work = self.dice.choice(works)
        self.log.append(f"host {work.__name__} {path.relative_to(self.root)} {other.relative_to(self.root)}")
        with suppress(OSError, shutil.Error):
            work(path, other)

    def remove(self, path: Path, _: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    def anew(self, path: Path, other: Path) -> None:
        """Its number may be used again at once."""
        self.remove(path, other)
        self.make(path)

    def replace(self, path: Path, _: Path) -> None:
        new = path.with_name("new")
        self.make_file(new)
        new.rename(path)

    def rename(self, path: Path, other: Path) -> None:
        path.rename(other)

    def swap(self, path: Path, other: Path) -> None:
        path.rename(self.beside / "third")
        if other.exists():
            other.rename(path)
        (self.beside / "third").rename(other)

    def link(self, path: Path, other: Path) -> None:
        os.link(path, other)

    def out(self, path: Path, _: Path) -> None:
        path.rename(self.beside / self.dice.choice(NAMES))

    def back(self, path: Path, _: Path) -> None:
        (self.beside / self.dice.choice(NAMES)).rename(path)


class Mounter(Host):
    """Mounts things in it as well, and unmounts them while somebody uses them."""

    def anything(self) -> None:
        if self.dice.random() < 0.6:
            super().anything()
            return
        path, other = self.place().parent, self.place().parent
        work = self.dice.choice((self.mount, self.mount, self.bind, self.unmount))
        self.log.append(f"host {work.__name__} {path.relative_to(self.root)} {other.relative_to(self.root)}")
        with suppress(OSError, subprocess.CalledProcessError):
            work(path, other)

    def mount(self, path: Path, _: Path) -> None:
        self.mount_here(path, "-t", "tmpfs", "none")
        self.make_file(path / MARK)
        for name in self.dice.sample(NAMES, 2):
            self.make(path / name)

    def bind(self, path: Path, other: Path) -> None:
        """A directory of the share, or one that is not in it."""
        if self.dice.random() < 0.5:
            other = self.beside / f"bound{self.made}"
            self.make_directory(other)
            self.make_file(other / self.dice.choice(NAMES))
        self.mount_here(path, "--bind", other)

    def mount_here(self, path: Path, *words: str | Path) -> None:
        if path == self.root:
            raise OSError("that would hide the share from nobody who has it")
        subprocess.run(["mount", *words, path], check=True, stderr=subprocess.DEVNULL)

    def unmount(self, *_: Path) -> None:
        mounted = self.mounted()
        if mounted:
            subprocess.run(["umount", "--lazy", self.dice.choice(mounted)], check=True, stderr=subprocess.DEVNULL)

    def mounted(self) -> list[str]:
        places = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        # What is moved out of the share takes its mounts along.
        return [place for place in places if place.startswith(f"{self.root.parent}/")]

    def unmount_all(self) -> None:
        for place in reversed(self.mounted()):
            subprocess.run(["umount", "--lazy", place], check=False, stderr=subprocess.DEVNULL)


class Kernel:
    """The guest's: what it knows each number by, whatever daemon is at the other end."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.nodes: dict[int, tuple[bool, bytes]] = {}
        self.counts: Counter[int] = Counter()
        self.files: dict[int, tuple[int, bytes]] = {}
        self.directories: list[int] = [1]
        self.errors = 0
        self.right = 0

    def content(self, side: Side, node: int) -> bytes | None:
        answer = side.guest.send(Call(Op.OPEN, node, bytes(8)))
        if answer.error:
            return None
        fh = OPEN_OUT.unpack(answer.body)["fh"]
        read = side.guest.send(Call(Op.READ, node, READ_IN.pack(fh=fh, size=100)))
        side.guest.ask(Op.RELEASE, node, RELEASE_IN.pack(fh=fh))
        return None if read.error else read.body

    def look_up(self, side: Side, parent: int, name: str) -> int:
        answer = side.guest.send(Call(Op.LOOKUP, parent, name.encode() + b"\0"))
        if answer.error:
            return 0
        entry = ENTRY_OUT.unpack(answer.body)
        node, directory = entry["nodeid"], entry["attr_mode"] >> 12 == 4
        self.counts[node] += 1
        found = self.who(side, node, directory)
        if node in self.nodes:
            known = self.nodes[node]
            assert found is None or known == (directory, found), f"a look-up of {name} in {parent} gave {node}"
        elif found is not None:
            self.nodes[node] = directory, found
        return node

    def who(self, side: Side, node: int, directory: bool) -> bytes | None:
        if not directory:
            return self.content(side, node)
        answer = side.guest.send(Call(Op.LOOKUP, node, MARK.encode() + b"\0"))
        if answer.error:
            return None
        mark = ENTRY_OUT.unpack(answer.body)["nodeid"]
        self.counts[mark] += 1
        return self.content(side, mark)

    def holder(self) -> int:
        return self.dice.choice([1, 1, *(node for node, (directory, _) in self.nodes.items() if directory)])

    def anything(self, side: Side) -> None:
        what = self.dice.random()
        if what < 0.5:
            self.look_up(side, self.holder(), self.dice.choice(NAMES))
        elif what < 0.75 and self.nodes:
            node = self.dice.choice(list(self.nodes))
            directory, known = self.nodes[node]
            if not directory:
                answer = side.guest.send(Call(Op.OPEN, node, bytes(8)))
                if not answer.error:
                    self.files[OPEN_OUT.unpack(answer.body)["fh"]] = node, known
        elif what < 0.85 and self.nodes:
            node = self.dice.choice(list(self.nodes))
            if all(node != held for held, _ in self.files.values()):
                side.forget(node, self.counts.pop(node))
                del self.nodes[node]
        elif what < 0.93:
            body = self.holder().to_bytes(8, "little") + b"%s\0%s\0" % tuple(
                self.dice.choice(NAMES).encode() for _ in range(2)
            )
            side.guest.send(Call(Op.RENAME, self.holder(), body))
        else:
            side.guest.send(Call(Op.UNLINK, self.holder(), self.dice.choice(NAMES).encode() + b"\0"))

    def check(self, side: Side) -> None:
        for fh, (node, known) in self.files.items():
            answer = side.guest.send(Call(Op.READ, node, READ_IN.pack(fh=fh, size=100)))
            self.count(answer.error == 0)
            assert answer.error or answer.body == known, f"file {fh} of inode {node} was {known!r}, is {answer.body!r}"
        for node, (directory, known) in list(self.nodes.items()):
            found = self.who(side, node, directory)
            self.count(found is not None)
            assert found in (None, known), f"inode {node} was {known!r}, is {found!r}"

    def check_places(self, data: bytes, root: Path) -> None:
        """What the state says to a destination that has nothing but names to go by."""
        inodes = {inode.id: inode.location for inode in body(stream.load(data).state).inodes}

        def path(node: int) -> Path | None:
            match inodes[node]:
                case RootNode():
                    return root
                case Place(parent, name):
                    above = path(parent)
                    return above and above / name
                case FullPath(name):
                    return root / name
            return None

        for node, (directory, known) in self.nodes.items():
            there = path(node) if node in inodes else None
            if there is not None:
                found = (there / MARK if directory else there).read_bytes()
                assert found == known, f"inode {node} is {known!r}, and said to be at {there}, where {found!r} is"

    def count(self, right: bool) -> None:
        self.right += right
        self.errors += not right


def options(dice: random.Random) -> MigrationConfig:
    mode = dice.choice(list(MigrationMode))
    return MigrationConfig(
        mode=mode,
        on_error=dice.choice((OnError.ABORT, OnError.GUEST_ERROR, OnError.GUEST_ERROR)),
        restore=dice.choice(list(RestoreMode)),
        verify_handles=mode is MigrationMode.FIND_PATHS and dice.random() < 0.3,
        confirm_paths=mode is MigrationMode.FIND_PATHS and dice.random() < 0.3,
    )


class Play:
    """One guest, and one daemon after the other."""

    def __init__(self, root: Path, seed: int, hosts: Sequence[bytes | None], kind: type[Host] = Host) -> None:
        self.root = root
        self.dice = random.Random(seed)
        self.host = kind(root, self.dice)
        self.kernel = Kernel(self.dice)
        self.hosts = hosts
        self.moves = 0

    def some(self, work: Callable[[], None], most: int) -> None:
        for _ in range(self.dice.randrange(most)):
            work()

    def daemon(self, *, init: bool) -> Side:
        handles = self.dice.choice((HandleMode.PREFER, HandleMode.PREFER, HandleMode.NEVER))
        host = self.dice.choice(self.hosts)
        return Side(self.root, options(self.dice), ShareConfig(handles=handles), host=host, init=init)

    def run(self) -> None:
        with ExitStack() as running:
            side = running.enter_context(self.daemon(init=True))
            for _ in range(25):
                self.kernel.look_up(side, self.kernel.holder(), self.dice.choice(NAMES))
            for _ in range(HOPS):
                self.some(partial(self.kernel.anything, side), 20)
                data = self.saved(side)
                self.some(self.host.anything, 4)
                target = running.enter_context(self.daemon(init=False))
                self.host.log.append(f"from {side.config} to {target.config}")
                target.stop()
                try:
                    target.load(data)
                except FerryError as error:
                    self.host.log.append(str(error))
                    side.go_on()
                else:
                    self.moves += 1
                    side = target
                    side.go_on()
                self.some(self.host.anything, 2)
                if self.dice.random() < 0.7:
                    self.kernel.check(side)
            self.kernel.check(side)

    def saved(self, side: Side) -> bytes:
        """The state, after collecting that was ended at any point; only the last one counts."""
        capture = side.capture()
        for _ in range(self.dice.randrange(3)):
            capture = side.capture()
            capture.collect(partial(self.cancelled, 0.2, itertools.count(), self.dice.choice((1, 2, 3, 4, 1000))))
            self.some(self.host.anything, 4)
            self.some(partial(self.kernel.anything, side), 4)
        side.stop()
        quiet = self.dice.random() < 0.5
        meanwhile = partial(self.cancelled, 0 if quiet else 0.1, itertools.count(), 1 << 60)
        data = b"".join(bytes(piece) for piece in capture.save(meanwhile))
        # Where something is mounted, a path need not lead where the guest's directories do.
        if quiet and not isinstance(self.host, Mounter):
            self.kernel.check_places(data, self.root)
        return data

    def cancelled(self, chance: float, calls: Iterator[int], most: int) -> bool:
        """Asked between any two steps of a source: somebody on the host may be faster."""
        if self.dice.random() < chance:
            self.host.anything()
        return next(calls) >= most


@contextmanager
def place(name: str, folder: Path) -> Iterator[Path]:
    """A share on a file system of its own."""
    share = folder / "share"
    share.mkdir()
    words = ["-t", "tmpfs", "none"]
    if name == "ext4":
        image = folder / "image"
        with image.open("wb") as file:
            file.truncate(16 << 20)
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        words = ["-o", "loop", str(image)]
    elif name == "overlay":
        for part in ("lower", "upper", "work"):
            (folder / part).mkdir()
        words = ["-t", "overlay", "-o", ",".join(f"{part}dir={folder / part}" for part in ("lower", "upper", "work"))]
        words.append("overlay")
    subprocess.run(["mount", *words, share], check=True)
    try:
        # Beside it on the same file system is what somebody moves out of it.
        (share / "share").mkdir()
        yield share / "share"
    finally:
        subprocess.run(["umount", share], check=True)


@needs_mounts("mkfs.ext4")
@pytest.mark.parametrize("kind", [Host, Mounter])
@pytest.mark.parametrize("where", ["ext4", "tmpfs", "overlay"])
def test_anything(where: str, kind: type[Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A test can't wait until change times are as old as they have to be; the kernel's clock moves in steps of 10 ms.
    monkeypatch.setattr(ground, "OLD_NS", 20_000_000)
    moves = right = errors = 0
    for seed in SEEDS:
        folder = tmp_path / str(seed)
        folder.mkdir()
        with place(where, folder) as root, ExitStack() as mounted:
            play = Play(root, seed, [None, b"another", b"a third"] if where == "ext4" else [None], kind)
            if isinstance(play.host, Mounter):
                mounted.callback(play.host.unmount_all)
                play.some(play.host.anything, 8)
            try:
                play.run()
            except AssertionError as error:
                raise AssertionError("\n".join([f"seed {seed}", *play.host.log[-50:], str(error)])) from error
        moves += play.moves
        right += play.kernel.right
        errors += play.kernel.errors
    # It would prove little if nothing moved, or if everything was an error.
    assert moves > len(SEEDS)
    # What is unmounted is lost for good, with all that was in it.
    assert right > errors / (2 if kind is Mounter else 1), f"{right} right, {errors} errors"
