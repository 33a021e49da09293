"""The two files of `ferryfs save`, and what `ferryfs mount --restore` makes of bad ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from ferryfs.errors import OptionError, StateError
from ferryfs.frontend.migrate import read_snapshot, snapshot_companion, write_snapshot
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
    with pytest.raises(OptionError, match="can't be written"):
        write_snapshot(tmp_path / "none" / "state", b"", b"")
