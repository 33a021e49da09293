"""A name that somebody else makes just before a program of the guest does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from interop.mounting import daemon_line, mounted, needs_fuse

pytestmark = needs_fuse

USER = 12345


@contextmanager
def acting_as(user: int) -> Iterator[None]:
    """Files are opened as an ordinary user meanwhile."""
    os.setegid(user)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def test_what_is_there_by_then_is_opened_by_whoever_may(tmp_path: Path) -> None:
    """The guest remembers that there was no such name (--negative-timeout), as any does in the moment before a CREATE:
    Linux looks again, and asks for what opening takes.
    """
    shared, mountpoint = tmp_path / "shared", tmp_path / "mountpoint"
    for folder in (shared, mountpoint):
        folder.mkdir()
    shared.chmod(0o777)
    line = daemon_line("ferryfsd", shared, "--negative-timeout=3600")
    with mounted(tmp_path / "socket", mountpoint, "--daemon", line):
        directory = os.open(mountpoint, os.O_RDONLY)
        try:
            for name, mode in (("others", 0o600), ("everybodys", 0o666)):
                with pytest.raises(FileNotFoundError):
                    os.stat(name, dir_fd=directory)
                (shared / name).write_text(name)
                (shared / name).chmod(mode)
            with acting_as(USER):
                with pytest.raises(PermissionError):
                    os.open("others", os.O_RDWR | os.O_CREAT, dir_fd=directory)
                with pytest.raises(FileExistsError):
                    os.open("everybodys", os.O_RDWR | os.O_CREAT | os.O_EXCL, dir_fd=directory)
                with open(os.open("everybodys", os.O_RDWR | os.O_CREAT, dir_fd=directory), "rb") as file:
                    assert file.read() == b"everybodys"
                os.close(os.open("everybodys", os.O_RDWR | os.O_CREAT | os.O_TRUNC, dir_fd=directory))
                os.close(os.open("own", os.O_RDWR | os.O_CREAT, 0o600, dir_fd=directory))
        finally:
            os.close(directory)
    assert (shared / "others").read_text() == "others"
    assert (shared / "everybodys").read_text() == ""
    assert (shared / "own").stat().st_uid == USER
