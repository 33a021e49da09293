"""Flags of open files travel, and none of them keeps a file from being opened again, whatever the guest gave."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ferryfs.passthrough.config import MigrationConfig
from ferryfs.wire.fuse import CREATE_IN, CREATE_OUT, LINK_IN, READ_IN, Op

from .sides import MODES, Side, mode_of, moved

CONTENT = b"content"


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    shared = tmp_path / "shared"
    (shared / "folder").mkdir(parents=True)
    (shared / "file").write_bytes(CONTENT)
    return shared


@pytest.mark.parametrize("named", [False, True], ids=["nameless", "named since"])
@pytest.mark.parametrize("config", MODES, ids=mode_of)
def test_a_file_made_without_a_name(config: MigrationConfig, named: bool, shared: Path) -> None:
    """open(2) takes O_DIRECTORY with O_TMPFILE, and Linux says both in TMPFILE."""
    with Side(shared, config) as source:
        body = CREATE_IN.pack(flags=os.O_RDWR | os.O_TMPFILE, mode=0o100600) + b"/\0"
        made = CREATE_OUT.unpack(source.guest.ask(Op.TMPFILE, 1, body))
        source.write(made["nodeid"], made["fh"], CONTENT)
        if named:
            source.guest.ask(Op.LINK, 1, LINK_IN.pack(oldnodeid=made["nodeid"]) + b"named\0")
        with moved(source, config) as destination:
            assert destination.read(made["nodeid"], made["fh"]) == CONTENT
            with moved(destination, config) as third:
                assert third.read(made["nodeid"], made["fh"]) == CONTENT


@pytest.mark.parametrize("flags", [os.O_DIRECTORY, os.O_PATH, os.O_TMPFILE, os.O_CREAT | os.O_EXCL, 0x7FFFFDFC])
@pytest.mark.parametrize("config", MODES, ids=mode_of)
def test_a_guest_does_not_keep_itself_from_moving(config: MigrationConfig, flags: int, shared: Path) -> None:
    with Side(shared, config) as source:
        file, folder = source.walk("file"), source.walk("folder")
        fh = source.guest.open(file, flags & ~os.O_DIRECTORY)
        odd = opened(source, Op.OPEN, file, flags)
        listing = opened(source, Op.OPENDIR, folder, flags | os.O_WRONLY)
        with moved(source, config) as destination:
            assert destination.read(file, fh) == CONTENT
            assert destination.read(file, odd) == CONTENT
            assert destination.guest.ask(Op.READDIR, folder, READ_IN.pack(fh=listing, size=4096))


def opened(side: Side, op: Op, nodeid: int, flags: int) -> int:
    """The fh of what is opened with these very flags."""
    body = flags.to_bytes(4, "little") + bytes(4)
    return int.from_bytes(side.guest.ask(op, nodeid, body)[:8], "little")
