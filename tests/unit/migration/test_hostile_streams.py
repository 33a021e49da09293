"""Streams that are wrong in every way, through the door that a daemon has: one clear error or a good load, no crash, no
memory beyond the stream's own measure, nothing outside the share, nothing left behind.

``FERRYFS_STREAMS=all`` tries every bit of every golden stream, which takes minutes; CI takes a sample.
"""

from __future__ import annotations

import gc
import os
import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from engine_guest import Call

from ferryfs.errors import FerryError
from ferryfs.migration import codec, state, stream, trailer
from ferryfs.migration.identity import make_handle
from ferryfs.migration.state import (
    ByHandle,
    FileHandle,
    FullPath,
    Handle,
    Inode,
    Invalid,
    Location,
    MountPath,
    RootNode,
)
from ferryfs.migration.state import Path as Place
from ferryfs.migration.trailer_records import Lost, LostInodes, Name, Names, Record, Unlinked
from ferryfs.passthrough.config import IdentityCheck, MigrationConfig, OnError, ShareConfig
from ferryfs.wire.fuse import ATTR_OUT, READ_IN, Op
from ferryfs.wire.postcard import Writer
from migration.samples import RECORDS, STATE
from migration.sides import FILE_HANDLES, FIND_PATHS, Side

GOLDEN = sorted((Path(__file__).parents[2] / "golden").glob("*.bin"))
ALL = os.environ.get("FERRYFS_STREAMS") == "all"
T = TypeVar("T")
SECRET = b"nobody's business\n"
TRUSTING = MigrationConfig(on_error=OnError.GUEST_ERROR, identity=IdentityCheck.OFF, search_limit=0)
# The state of a guest that has not mounted: to begin anew.
NOTHING = codec.encode(state.StateV2(state.StateV1((), 2, (), 1, state.Options(False, False, False, False)), ()))
# What a load may take beyond the stream, for small streams.
MEMORY_BYTES = 48 << 20


class Target:
    """A daemon that is loaded again and again, and what lies around its share."""

    def __init__(self, folder: Path) -> None:
        self.share = folder / "share"
        (self.share / "src" / "deep" / "deeper").mkdir(parents=True)
        for name in ("README", "src/main.c", "log", "file", "gone"):
            (self.share / name).write_text("inside\n")
        (self.share / "mnt").mkdir()
        (self.share / "out").symlink_to("../secret")
        (self.share / "up").symlink_to("..")
        (folder / "secret").write_bytes(SECRET)
        outside = [folder / "secret", folder, folder.parent, Path("/etc/passwd"), Path("/etc"), Path("/")]
        self._outside = {(path.stat().st_dev, path.stat().st_ino) for path in outside}
        self.side = Side(self.share, TRUSTING, ShareConfig(xattr=True, writeback=True), init=False)
        self.side.stop()
        self._descriptors = len(os.listdir("/proc/self/fd"))

    def try_load(self, data: bytes) -> bool:
        """Whether it was taken. Whatever it was, the rules above hold."""
        device = self.side.guest.device
        try:
            self.side.load(data)
        except FerryError as error:
            said = str(error)
            assert 10 < len(said) < 2000
            assert "\n" not in said
            assert device.inode_count == 1
            assert device.handle_count == 0
            assert len(os.listdir("/proc/self/fd")) <= self._descriptors + 1, data.hex()
            return False
        self._look_around(data)
        return True

    def _look_around(self, data: bytes) -> None:
        """The guest tries all that it has been given, and nothing of it is outside."""
        loaded = stream.load(data)
        v1 = state.body(loaded.state)
        self.side.go_on()
        for inode in list(v1.inodes)[:30]:
            answer = self.side.guest.send(Call(Op.GETATTR, inode.id, bytes(16)))
            if not answer.error:
                attributes = ATTR_OUT.unpack(answer.body)
                assert (os.stat(self.share).st_dev, attributes["attr_ino"]) not in self._outside, data.hex()
        for handle in list(v1.handles)[:30]:
            answer = self.side.guest.send(Call(Op.READ, handle.inode, READ_IN.pack(fh=handle.id, size=100)))
            assert answer.error or SECRET not in answer.body
        self.side.guest.serves()
        self.side.stop()
        self.side.load(NOTHING)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    made = Target(tmp_path)
    yield made
    made.side.close()


@contextmanager
def little_memory() -> Iterator[None]:
    """The block must not need much more than it has when it begins, not even for a moment."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_bytes()
    yield
    assert _peak_bytes() - before < MEMORY_BYTES


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_cut_anywhere(path: Path, target: Target) -> None:
    """Never taken for a whole one."""
    data = path.read_bytes()
    lengths = range(len(data)) if ALL or len(data) < 200 else sorted(random.Random(1).sample(range(len(data)), 40))
    with little_memory():
        for length in lengths:
            if data[:length] not in [other.read_bytes() for other in GOLDEN]:
                assert not target.try_load(data[:length]), f"{length} of {len(data)} bytes"


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_any_flipped_bit(path: Path, target: Target) -> None:
    """Ours are never taken: the checksum sees it. A stream of virtiofsd may be another good one then."""
    data = path.read_bytes()
    bits = range(8 * len(data))
    with little_memory():
        for bit in bits if ALL or len(bits) < 200 else sorted(random.Random(2).sample(bits, 40)):
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            taken = target.try_load(bytes(flipped))
            assert not (taken and path.stem.startswith("ferryfs")), bit


def number(value: int) -> bytes:
    writer = Writer()
    writer.u64(value)
    return writer.getvalue()


HUGE = number(1 << 60)
ROOT = bytes([1, 2, 0, 0])
OPTIONS = bytes(4)


@pytest.mark.parametrize(
    "data",
    [
        b"\1" + HUGE,
        b"\1" + HUGE + ROOT * 1000,
        b"\1\2" + ROOT + bytes([2, 1, 1, 1]) + HUGE + b"name",
        b"\1\2" + ROOT + bytes([2, 1, 3]) + HUGE,
        b"\1\2" + ROOT + bytes([2, 1, 4, 1, 2]) + HUGE,
        b"\1\2" + ROOT + bytes([2, 1, 2, 1, 1, 2]) + HUGE,
        b"\1\1" + ROOT + b"\2" + HUGE,
        b"\1\1" + ROOT + b"\2\0\1" + OPTIONS + HUGE,
        b"\1\1" + ROOT + b"\2\0\1" + OPTIONS + b"\1\1" + HUGE,
    ],
)
def test_counts_that_are_too_large(data: bytes, target: Target) -> None:
    """2^60 of something: refused before memory is taken for it."""
    with little_memory():
        assert not target.try_load(data)
        assert not target.try_load(data + bytes(1 << 16))


def sealed(records: bytes) -> bytes:
    """A trailer that is right but for these records."""
    head = codec.encode(STATE, trailer_follows=True)
    whole = b"".join(bytes(piece) for piece in stream.save(STATE, ()))
    end = whole[len(head) + len(trailer.MAGIC) + 1 :]
    assert len(end) == 14
    body = head + whole[len(head) : len(head) + len(trailer.MAGIC) + 1] + records
    sealed_end = end[:2] + (len(body) + 14).to_bytes(8, "little")
    return body + sealed_end + zlib.crc32(body + sealed_end).to_bytes(4, "little")


@pytest.mark.parametrize("tag", sorted(trailer.TAGS))
def test_counts_in_the_trailer(tag: int, target: Target) -> None:
    """The same in every kind of record, behind a checksum that is right."""
    with little_memory():
        for payload in (HUGE, HUGE * 8, b"\0" + HUGE, b"\1" + HUGE * 4, b"\0" * 20 + HUGE, b"\x80" * 11):
            assert not target.try_load(sealed(number(tag) + number(len(payload)) + payload))


NAMES = ("..", ".", "", "/", "/etc/passwd", "a/../../secret", "../secret", "up/secret", "out", "up", "a\0b", "src/..")


def streams_with(names: tuple[str, ...]) -> Iterator[tuple[str, state.State, tuple[Record, ...] | None]]:
    """Each name everywhere that a name can stand, with a file open on it."""
    for name in names:
        for location in (Place(1, name), FullPath(name), FullPath(f"src/{name}"), FullPath(f"{name}/main.c")):
            yield name, _state(location), None
        yield name, replace(_state(Invalid()), mount_paths=(MountPath(7, name),)), None
        raw = name.encode()
        yield name, _state(Invalid()), (Names((Name(2, 1, raw),)),)
        yield name, _state(Invalid()), (Names((Name(2, 0, raw),)),)


def _state(location: Location) -> state.StateV2:
    v1 = state.StateV1(
        (Inode(1, 2 + isinstance(location, Place), RootNode(), None), Inode(2, 1, location, None)),
        3,
        (Handle(1, 2, os.O_RDWR),),
        2,
        state.Options(False, False, False, False),
    )
    return state.StateV2(v1, ())


def test_names_that_lead_out(target: Target) -> None:
    """ "..",, links, absolute paths, NUL: refused, or lost; never followed."""
    count = 0
    for _, value, records in streams_with(NAMES):
        with suppress(ValueError, UnicodeEncodeError):
            target.try_load(b"".join(bytes(piece) for piece in stream.save(value, records)))
            count += 1
    assert count == 7 * len(NAMES)


def test_handles_that_lead_out(target: Target) -> None:
    """A handle of the secret file beside the share, in the trailer of a state that goes by paths, and as a location."""
    if os.geteuid() != 0:
        pytest.skip("file handles can only be opened by root")
    fd = os.open(target.share.parent, os.O_PATH)
    try:
        made = make_handle(fd, b"secret")
        above = make_handle(fd)
    finally:
        os.close(fd)
    assert made is not None
    assert above is not None
    with Side(target.share) as source:
        node = source.walk("src/main.c")
        fh = source.guest.open(node)
        source.stop()
        data = source.save()
    with Side(target.share) as source:
        fd = os.open(target.share, os.O_PATH)
        mine = make_handle(fd, b"src/main.c")
        os.close(fd)
    assert mine is not None
    # The state's path leads nowhere now, and the identity is the secret's: the search must not take it.
    state_end = stream.load(data).state_bytes
    spoiled = data[:state_end].replace(b"main.c", b"gone.c") + data[state_end:].replace(mine.handle, made.handle)
    body = spoiled[:-4]
    spoiled = body + zlib.crc32(body).to_bytes(4, "little")
    for config in (replace(TRUSTING, identity=IdentityCheck.AUTO, search_limit=5.0), FIND_PATHS):
        with Side(target.share, config, init=False) as side:
            side.stop()
            with suppress(FerryError):
                side.load(spoiled)
                side.go_on()
                assert side.guest.refused(Op.READ, node, READ_IN.pack(fh=fh, size=100))
    for handle in (above,):
        location = ByHandle(FileHandle(7, handle.handle_type, handle.handle))
        value = replace(_state(location), mount_paths=(MountPath(7, "."),))
        with Side(target.share, replace(FILE_HANDLES, on_error=OnError.GUEST_ERROR), init=False) as side:
            side.stop()
            side.load(codec.encode(value))
            side.go_on()
            assert side.guest.refused(Op.GETATTR, 2, bytes(16))


class Spoiler(random.Random):
    """Makes states of which many could be real, and any part may be nonsense, by a seed."""

    def stream(self) -> bytes:
        value = self.state()
        records = self.records(value) if self.random() < 0.4 else None
        try:
            data = b"".join(bytes(piece) for piece in stream.save(value, records))
        except (ValueError, OverflowError):
            return b""
        if records is None and self.random() < 0.1:
            at = self.randrange(len(data))
            data = data[:at] + self.randbytes(1) + data[at + self.randrange(3) :]
        return data

    def mostly(self, good: T, *bad: T) -> T:
        return good if self.random() < 0.96 else self.choice(bad)

    def location(self, number: int) -> Location:
        names = ("README", "src", "main.c", "deep", "file", "out", "up", "log", "nothing", "☃")
        name = self.mostly(self.choice(names), "..", "a/b", "", "x" * 300)
        handle = self.randbytes(self.mostly(8, 0, 1, 128, 129))
        kinds: tuple[Location, ...] = (
            Place(self.mostly(1, number, number + 1, 77), name),
            Place(self.mostly(2, 0, number + 1), self.choice(("main.c", "deep", "deeper"))),
            Invalid(),
            FullPath(self.mostly("src/main.c", "/", "../secret", "up/secret", "src//x")),
            ByHandle(FileHandle(self.choice((7, 29)), self.choice((0, 1, -1)), handle)),
        )
        return self.choice(kinds)

    def state(self) -> state.State:
        locations: dict[int, Location] = {1: RootNode(), 2: Place(1, "src")}
        for number in range(3, 3 + self.randrange(8)):
            locations[self.mostly(number, 2, (1 << 64) - 1)] = self.mostly(self.location(number), RootNode())
        children = [location.parent for location in locations.values() if isinstance(location, Place)]
        inodes = [
            Inode(
                self.mostly(number, 0, 1, 5),
                children.count(number) + self.mostly(1, 0, 1 << 60, 5) + (number == 1),
                location,
                self.mostly(None, FileHandle(7, 1, self.randbytes(8))),
            )
            for number, location in locations.items()
        ]
        self.shuffle(inodes)
        flags = (0, 1, 2, os.O_TRUNC | 2, os.O_CREAT | os.O_EXCL, os.O_DIRECTORY, -1, os.O_DIRECT)
        handles = tuple(
            Handle(self.mostly(index, 0, 1), self.mostly(self.choice(list(locations)), 99), self.choice(flags))
            for index in range(self.randrange(4))
        )
        options = state.Options(*(self.mostly(False, True) for _ in range(4)))
        v1 = state.StateV1(tuple(inodes), self.mostly(400, 9, 0), handles, self.mostly(9, 0), options)
        mounts = [
            MountPath(self.mostly(7, 8), self.mostly(".", "mnt", "..", "/", "")) for _ in range(self.randrange(2))
        ]
        return v1 if self.random() < 0.2 else state.StateV2(v1, tuple(mounts))

    def records(self, value: state.State) -> list[Record]:
        made: list[Record] = list(self.sample(RECORDS, self.mostly(0, 1, 3, 7)))
        numbers = [inode.id for inode in state.body(value).inodes] or [1]
        if self.random() < 0.5:
            made.append(
                Unlinked(
                    inode=self.choice((*numbers, 399)),
                    refcount=self.randrange(3),
                    mode=self.choice((0o100644, 0o40755, 0o120777, 0o10644, 0o20644, 0o140777, 0o60644, 0, 0o177777)),
                    uid=self.mostly(0, 1000, (1 << 32) - 1, (1 << 32) - 2),
                    gid=0,
                    rdev=self.randrange(1 << 12),
                    size=self.choice((0, 1, 1 << 20, 1 << 62, (1 << 64) - 1)),
                    atime_ns=-1,
                    mtime_ns=1 << 62,
                    has_content=self.random() < 0.5,
                    target=self.choice((b"", b"t" * 5000, b"../secret")),
                    xattrs=(),
                )
            )
        if self.random() < 0.5:
            name = self.mostly(b"README", b"\xff", b"..", b"a/b")
            made.append(Names((Name(self.choice(numbers), self.mostly(1, 0, 7), name),)))
        if self.random() < 0.3:
            lost = Lost(self.choice((*numbers, 398)), self.randrange(3), self.choice((0, 5, 19, 1 << 31)), "x" * 100)
            made.append(LostInodes((lost,)))
        return made


@pytest.mark.parametrize("seed", range(20 if ALL else 3))
def test_states_that_make_no_sense(seed: int, capfd: pytest.CaptureFixture[str], target: Target) -> None:
    """Loops, missing parents, duplicate numbers, two roots, absurd counts, flags and sizes, well encoded and sealed."""
    spoiler = Spoiler(seed)
    outcomes = [target.try_load(data) for _ in range(2000 if ALL else 120) if (data := spoiler.stream())]
    # The tests would prove little if everything were refused at the door.
    assert 5 < sum(outcomes) < len(outcomes) - 5
    gc.collect()
    assert "SystemError" not in capfd.readouterr().err
