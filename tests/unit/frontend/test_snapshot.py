"""The two files of `ferryfs save`, and what `ferryfs mount --restore` makes of bad ones."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from namespaces import needs_mounts

from ferryfs.errors import OptionError, StateError
from ferryfs.frontend.migrate import check_snapshot_place, read_snapshot, snapshot_companion, write_snapshot
from ferryfs.wire.fuse import INIT_OUT, OUT_HEADER


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "state"
    write_snapshot(file, b"the state", b"the answer")
    assert read_snapshot(file) == (b"the state", b"the answer")
    assert file.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state", "state.mount"]


def test_a_bare_state_gets_the_least_answer(tmp_path: Path) -> None:
    file = tmp_path / "state"
    file.write_bytes(b"from elsewhere")
    state, answer = read_snapshot(file)
    assert state == b"from elsewhere"
    assert OUT_HEADER.unpack(answer)["len"] == len(answer)
    assert INIT_OUT.unpack(answer, OUT_HEADER.size)["max_pages"] == 256


def test_bad_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "state"
    with pytest.raises(StateError, match="state can't be read"):
        read_snapshot(file)
    file.write_bytes(b"")
    for text in ("", "{}", "[]", '{"init_answer": 3}', '{"init_answer": "zz"}'):
        snapshot_companion(file).write_text(text)
        with pytest.raises(StateError, match=r"state\.mount is not what"):
            read_snapshot(file)
    with pytest.raises(OptionError, match=r"The folder of .* does not exist"):
        write_snapshot(tmp_path / "none" / "state", b"", b"")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def make_link(path: Path) -> None:
    path.with_name("elsewhere").write_text("not ours")
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("name", ["state", "state.mount"])
@pytest.mark.parametrize(
    ("make", "said"),
    [(os.mkfifo, "a FIFO"), (make_socket, "a socket"), (make_link, "a symbolic link"), (Path.mkdir, "a directory")],
)
def test_only_a_file_is_replaced(make: Callable[[Path], None], said: str, name: str, tmp_path: Path) -> None:
    make(tmp_path / name)
    before = {path.name: path.lstat() for path in tmp_path.iterdir()}
    with pytest.raises(OptionError, match=f"{name} is {said}; the state goes into a file"):
        write_snapshot(tmp_path / "state", b"the state", b"the answer")
    assert {path.name: path.lstat() for path in tmp_path.iterdir()} == before


def test_a_device_stays(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="/dev/null is a device"):
        check_snapshot_place(Path("/dev/null"))
    check_snapshot_place(tmp_path / "state")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system that has room for 8 KiB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


@needs_mounts()
@pytest.mark.parametrize("size", [8192, 10_000])
def test_both_files_or_none(size: int, small: Path) -> None:
    """There is no room for the second one, or not for all of the first."""
    with pytest.raises(OptionError, match="can't be written: No space left"):
        write_snapshot(small / "state", bytes(size), b"the answer")
    assert list(small.iterdir()) == []
    write_snapshot(small / "state", b"whole", b"the answer")
    with pytest.raises(OptionError, match="can't be written: No space left"):
        write_snapshot(small / "state", bytes(size), b"another answer")
    assert read_snapshot(small / "state") == (b"whole", b"the answer")
    assert sorted(path.name for path in small.iterdir()) == ["state", "state.mount"]


def test_the_files_of_two_saves(tmp_path: Path) -> None:
    """A save that was killed between the two, or a copy of one file alone."""
    write_snapshot(tmp_path / "one", b"one", b"the answer")
    write_snapshot(tmp_path / "two", b"two", b"another answer")
    snapshot_companion(tmp_path / "two").replace(snapshot_companion(tmp_path / "one"))
    with pytest.raises(StateError, match=r"one\.mount was saved with another state than "):
        read_snapshot(tmp_path / "one")
