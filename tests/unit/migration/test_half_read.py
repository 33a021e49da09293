"""A directory that the guest has read by half: it goes on without loss or repeat, there and here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from injected import failing, needs_strace
from namespaces import needs_mounts

from ferryfs.migration import capture, stream
from ferryfs.migration.trailer_records import HalfRead
from ferryfs.wire.fuse import READ_IN, Op
from migration.sides import FIND_PATHS, Side, loaded, moved

Mount = Callable[..., Path]


def test_a_rewound_directory(tmp_path: Path) -> None:
    """After rewinddir(3) it is this host's directory, with its own cookies, whatever the source's meant."""
    many = tmp_path / "share" / "many"
    many.mkdir(parents=True)
    for number in range(100):
        (many / f"old{number}").touch()
    with Side(tmp_path / "share") as source:
        node = source.walk("many")
        fh = source.guest.open(node, os.O_RDONLY | os.O_DIRECTORY)
        first = entries(source, node, fh, 0, 1024)
        source.stop()
        data = source.save()
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "share", copy)
    (copy / "many" / "new").touch()
    with loaded(data, copy) as destination:
        rest = everything(destination, node, fh, first[-1][0])
        names = {f"old{number}" for number in range(100)} | {".", ".."}
        assert sorted([name for _, name in first] + rest) == sorted(names)
        again = everything(destination, node, fh, 0)
        assert sorted(again) == sorted({*names, "new"})
        with moved(destination, FIND_PATHS) as third:
            trailer = stream.load(data).trailer
            assert trailer is not None
            assert any(isinstance(record, HalfRead) for record in trailer.records)
            assert sorted(everything(third, node, fh, 0)) == sorted({*names, "new"})


def test_many_half_read_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A guest may open one as often as it likes: what travels of them is bounded in all. The rest go on as they are."""
    monkeypatch.setattr(capture, "HALF_READ_BYTES", 10_000)
    for number in range(100):
        (tmp_path / f"name{number}").touch()
    with Side(tmp_path) as source:
        fhs = [source.guest.open(1, os.O_RDONLY | os.O_DIRECTORY) for _ in range(10)]
        first = [entries(source, 1, fh, 0) for fh in fhs]
        source.stop()
        data = source.save()
    trailer = stream.load(data).trailer
    assert trailer is not None
    travelled = [record.handle for record in trailer.records if isinstance(record, HalfRead)]
    assert travelled == fhs[: len(travelled)]
    assert 1 < len(travelled) < 5
    assert f"{10 - len(travelled)} open directories go on at this host's own offsets" in caplog.text
    with loaded(data, tmp_path) as destination:
        for fh, seen in zip(fhs, first, strict=True):
            names = [name for _, name in seen] + everything(destination, 1, fh, seen[-1][0])
            assert sorted(names) == sorted([".", "..", *(f"name{number}" for number in range(100))])


@pytest.mark.skipif(os.geteuid() != 0, reason="strace of this process needs root")
@needs_strace
def test_a_directory_that_can_not_be_read_on_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "many").mkdir()
    for number in range(100):
        (tmp_path / "many" / f"name{number}").touch()
    with Side(tmp_path) as source:
        node = source.walk("many")
        fh = source.guest.open(node, os.O_RDONLY | os.O_DIRECTORY)
        first = entries(source, node, fh, 0, 1024)
        source.stop()
        with failing("getdents64:error=EIO"):
            source.save()
        assert "1 open directories can't be read on" in caplog.text
        assert "'many'" in caplog.text
        source.go_on()
        names = [name for _, name in first] + everything(source, node, fh, first[-1][0])
        assert sorted(names) == sorted([".", "..", *(f"name{number}" for number in range(100))])


def test_a_directory_that_was_removed_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "many").mkdir()
    with Side(tmp_path) as source:
        node = source.walk("many")
        entries(source, node, source.guest.open(node, os.O_RDONLY | os.O_DIRECTORY), 0, 1024)
        (tmp_path / "many").rmdir()
        source.stop()
        source.save()
    assert "can't be read on" not in caplog.text


@pytest.fixture
def merged(tmp_path: Path, mount: Mount) -> Path:
    """A directory of 1,000 names in two layers of an overlay, whose cookies count in a list that each open file has."""
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower" / "many").mkdir()
    for number in range(100):
        (tmp_path / "lower" / "many" / f"lower{number}").touch()
    layers = ",".join(f"{name}dir={tmp_path / name}" for name in ("lower", "upper", "work"))
    many = mount("share", "-t", "overlay", "-o", layers, "overlay") / "many"
    for number in range(900):
        (many / f"upper{number}").touch()
    return many


@pytest.fixture
def counted(mount: Mount) -> Path:
    """The same on ramfs, where a cookie counts the entries before it: what is removed shifts those behind."""
    many = mount("share", "-t", "ramfs", "none") / "many"
    many.mkdir()
    for number in range(1000):
        (many / f"old{number}").touch()
    return many


@pytest.fixture(params=["merged", "counted"])
def many(request: pytest.FixtureRequest) -> Path:
    made: Path = request.getfixturevalue(request.param)
    return made


def change(many: Path, what: str, given: list[str]) -> None:
    """What the host does to entries that the guest has been given already, or beside them."""
    if what == "removed":
        for name in [name for name in given if name not in (".", "..")][-100:]:
            (many / name).unlink()
    if what == "created":
        for number in range(100):
            (many / f"new{number}").touch()


@needs_mounts()
@pytest.mark.parametrize("where", ["same", "copy"])
@pytest.mark.parametrize("what", ["nothing", "removed", "created"])
def test_cookies_that_belong_to_the_open_file(what: str, where: str, many: Path, tmp_path: Path) -> None:
    """Another open file of the directory has other cookies: the rest is read by the guest's own."""
    names = {".", "..", *os.listdir(many)}
    share = many.parent
    with Side(share) as source:
        node = source.walk("many")
        fh = source.guest.open(node, os.O_RDONLY | os.O_DIRECTORY)
        given = halfway(source, node, fh)
        change(many, what, [name for _, name in given])
        source.stop()
        data = source.save()
        if where == "copy":
            share = tmp_path / "copy"
            shutil.copytree(many.parent, share)
        with loaded(data, share) as destination:
            rest = everything(destination, node, fh, given[-1][0])
    assert sorted(name for name in [*(name for _, name in given), *rest] if not name.startswith("new")) == sorted(names)


@needs_mounts()
@pytest.mark.parametrize("what", ["nothing", "removed", "created"])
def test_the_source_goes_on_after_a_migration_that_failed(what: str, many: Path) -> None:
    """It reads on as if nothing had been, and can be migrated once more."""
    names = {".", "..", *os.listdir(many)}
    with Side(many.parent) as source:
        node = source.walk("many")
        fh = source.guest.open(node, os.O_RDONLY | os.O_DIRECTORY)
        given = halfway(source, node, fh)
        change(many, what, [name for _, name in given])
        source.stop()
        source.save()
        source.go_on()
        given += entries(source, node, fh, given[-1][0])
        source.stop()
        source.save()
        data = source.save()
        source.go_on()
        stayed = everything(source, node, fh, given[-1][0])
        with loaded(data, many.parent) as destination:
            went = everything(destination, node, fh, given[-1][0])
    for rest in (stayed, went):
        seen = [*(name for _, name in given), *rest]
        assert sorted(name for name in seen if not name.startswith("new")) == sorted(names)


@needs_mounts()
def test_the_guest_goes_back(many: Path) -> None:
    """By seekdir(3), to an offset of an earlier answer; and by rewinddir(3), which shows what is there now."""
    with Side(many.parent) as source:
        node = source.walk("many")
        fh = source.guest.open(node, os.O_RDONLY | os.O_DIRECTORY)
        given = halfway(source, node, fh)
        with moved(source, FIND_PATHS) as destination:
            (many / "new").touch()
            every = [name for _, name in given] + everything(destination, node, fh, given[-1][0])
            for index in (0, 1, 100, len(given) - 2):
                assert everything(destination, node, fh, given[index][0]) == every[index + 1 :]
            assert sorted(everything(destination, node, fh, 0)) == sorted([*every, "new"])


@pytest.mark.parametrize("where", ["same", "copy"])
def test_what_lies_around_the_place_is_removed(where: str, tmp_path: Path) -> None:
    """The offset that the guest was given last may be no entry's any more."""
    many = tmp_path / "share" / "many"
    many.mkdir(parents=True)
    for number in range(1000):
        (many / f"old{number}").touch()
    share = many.parent
    with Side(share) as source:
        node = source.walk("many")
        fh = source.guest.open(node, os.O_RDONLY | os.O_DIRECTORY)
        given = halfway(source, node, fh)
        order = [name for _, name in given] + [
            name for name in os.listdir(many) if name not in {name for _, name in given}
        ]
        for name in order[len(given) - 10 : len(given) + 10]:
            (many / name).unlink()
        left = set(os.listdir(many)) - {name for _, name in given}
        source.stop()
        data = source.save()
        if where == "copy":
            share = tmp_path / "copy"
            shutil.copytree(many.parent, share)
        with loaded(data, share) as destination:
            rest = everything(destination, node, fh, given[-1][0])
    assert len(rest) == len(set(rest))
    # What was read ahead may be given although it is gone.
    assert left <= set(rest) <= left | set(order[len(given) : len(given) + 10])


def halfway(side: Side, node: int, fh: int) -> list[tuple[int, str]]:
    """(offset behind it, name) of some 400 entries, from the beginning."""
    given: list[tuple[int, str]] = []
    while len(given) < 400:
        given += entries(side, node, fh, given[-1][0] if given else 0, 4096)
    return given


def entries(side: Side, node: int, fh: int, offset: int, size: int = 1024) -> list[tuple[int, str]]:
    """(offset behind it, name) of one READDIR."""
    data = side.guest.ask(Op.READDIR, node, READ_IN.pack(fh=fh, offset=offset, size=size))
    found, at = [], 0
    while at < len(data):
        following = int.from_bytes(data[at + 8 : at + 16], "little")
        length = int.from_bytes(data[at + 16 : at + 20], "little")
        found.append((following, data[at + 24 : at + 24 + length].decode()))
        at += 24 + (length + 7 & ~7)
    return found


def everything(side: Side, node: int, fh: int, offset: int) -> list[str]:
    names = []
    while got := entries(side, node, fh, offset):
        names += [name for _, name in got]
        offset = got[-1][0]
    return names
