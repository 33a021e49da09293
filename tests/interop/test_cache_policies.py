"""What a guest may keep, and for how long, is what virtiofsd lets it keep under the same policy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import pytest
from daemons import EVERY_DAEMON, OWN, REFERENCES, StartDaemon, daemon_command
from engine_guest import Guest
from fuzz.monitor import Monitor

from ferryfs.passthrough.config import ShareConfig
from ferryfs.wire.fuse import ATTR_OUT, CREATE_IN, ENTRY_OUT, FOPEN_NOFLUSH, INIT_IN, OPEN_IN, OPEN_OUT, Op

POLICIES = ("auto", "always", "metadata", "never")
DAY = 86400


class Kept(NamedTuple):
    """Seconds, and FOPEN_ flags."""

    entry: float
    attributes: float
    attributes_again: float
    file: int
    writable_file: int
    new_file: int
    directory: int


def kept(daemon: str, policy: str, folder: Path, start: StartDaemon) -> Kept:
    shared = folder / daemon
    shared.mkdir()
    (shared / "file").write_bytes(b"content")
    with Monitor(start(daemon_command(daemon), shared, ["--sandbox=none", f"--cache={policy}"])) as monitor:
        monitor.start()

        def answer(op: Op, nodeid: int, body: bytes) -> bytes:
            error, out = monitor.answer(op, nodeid, body)
            assert error == 0
            return out

        entry = ENTRY_OUT.unpack(answer(Op.LOOKUP, 1, b"file\0")[: ENTRY_OUT.size])
        nodeid = entry["nodeid"]
        attributes = ATTR_OUT.unpack(answer(Op.GETATTR, nodeid, bytes(16)))
        created = answer(Op.CREATE, 1, CREATE_IN.pack(flags=os.O_RDWR, mode=0o644) + b"new\0")
        return Kept(
            entry["entry_valid"] + entry["entry_valid_nsec"] / 1e9,
            entry["attr_valid"] + entry["attr_valid_nsec"] / 1e9,
            attributes["attr_valid"] + attributes["attr_valid_nsec"] / 1e9,
            *(
                OPEN_OUT.unpack(out)["open_flags"] & ~FOPEN_NOFLUSH
                for out in (
                    answer(Op.OPEN, nodeid, OPEN_IN.pack(flags=os.O_RDONLY)),
                    answer(Op.OPEN, nodeid, OPEN_IN.pack(flags=os.O_RDWR)),
                    created[ENTRY_OUT.size :],
                    answer(Op.OPENDIR, 1, OPEN_IN.pack(flags=os.O_RDONLY | os.O_DIRECTORY)),
                )
            ),
        )


@pytest.mark.parametrize("policy", POLICIES)
def test_as_virtiofsd(policy: str, tmp_path: Path, start_daemon: StartDaemon) -> None:
    ours, *others = (kept(daemon, policy, tmp_path, start_daemon) for daemon in EVERY_DAEMON)
    assert [ours] * len(REFERENCES) == others
    seconds = {"auto": 1, "never": 0}.get(policy, DAY)
    assert ours[:3] == (seconds,) * 3


@pytest.mark.parametrize(("minor", "spared"), [(34, 0), (35, FOPEN_NOFLUSH)])
def test_who_can_close_without_a_flush(minor: int, spared: int, tmp_path: Path) -> None:
    """A file opened for reading, by a guest that knows of it."""
    (tmp_path / "file").touch()
    with Guest(tmp_path, ShareConfig(), init=False) as guest:
        guest.ask(Op.INIT, 0, INIT_IN.pack(major=7, minor=minor))
        nodeid = guest.lookup(b"file")
        flags = {
            flags: OPEN_OUT.unpack(guest.ask(Op.OPEN, nodeid, OPEN_IN.pack(flags=flags)))["open_flags"]
            for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)
        }
    assert flags == {os.O_RDONLY: spared, os.O_WRONLY: 0, os.O_RDWR: 0}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("option", "seconds"), [("0", None), ("60", 60.0), ("0.25", 0.25)])
def test_a_name_that_is_not_there(
    policy: str, option: str, seconds: float | None, tmp_path: Path, start_daemon: StartDaemon
) -> None:
    options = ["--sandbox=none", f"--cache={policy}", f"--negative-timeout={option}"]
    with Monitor(start_daemon(daemon_command(OWN), tmp_path, options)) as monitor:
        monitor.start()
        error, out = monitor.answer(Op.LOOKUP, 1, b"missing\0")
    if seconds is None:
        assert (error, out) == (2, b"")
    else:
        entry = ENTRY_OUT.unpack(out)
        assert (error, entry["nodeid"], entry["entry_valid"] + entry["entry_valid_nsec"] / 1e9) == (0, 0, seconds)
