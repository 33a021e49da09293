"""What compiled code writes of the live tables, against the obvious Python of the codec and the trailer."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ferryfs.migration import codec, stream, trailer
from ferryfs.migration.columns import Column
from ferryfs.migration.trailer_identities import IDENTITIES_PER_RECORD, InodeIdentities
from ferryfs.passthrough.config import MigrationConfig
from ferryfs.wire.fuse import OPEN_IN, Op
from migration.sides import MODES, Side, loaded, mode_of

# Names of several lengths, among them one that is not UTF-8, so that columns have different widths.
NAMES = [f"{index:0{1 + index % 60}}x".encode() for index in range(300)] + [b"\xff", b"y" * 255]


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("config", MODES, ids=mode_of)
def test_a_stream_is_what_the_codec_would_write(config: MigrationConfig, verify: bool, tmp_path: Path) -> None:
    """Byte for byte: read by the slow road, which checks each byte, and written again."""
    for index, name in enumerate(NAMES):
        (tmp_path / os.fsdecode(name)).write_bytes(bytes(index))
    with Side(tmp_path, replace(config, verify_handles=verify)) as source:
        nodes = [source.guest.lookup(name) for name in NAMES]
        for node in nodes[::7]:
            source.guest.ask(Op.OPEN, node, OPEN_IN.pack(flags=os.O_RDWR | os.O_APPEND))
        source.stop()
        data = source.save()
    found = stream.parse(data)
    assert found.trailer is not None
    state = codec.encode(found.state, trailer_follows=True)
    assert state == data[: found.state_bytes]
    assert b"".join(trailer.write([state], found.trailer.records)) == data


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user has not so many descriptors")
@pytest.mark.parametrize("config", MODES, ids=mode_of)
def test_more_inodes_than_one_record_has(config: MigrationConfig, tmp_path: Path) -> None:
    """Nothing is lost between two pieces of the state, or two records, and each is loaded."""
    names = [b"%x" % index for index in range(IDENTITIES_PER_RECORD + 100)]
    for name in names:
        os.close(os.open(tmp_path / os.fsdecode(name), os.O_CREAT | os.O_WRONLY))
    with Side(tmp_path, config) as source:
        for name in names:
            source.guest.lookup(name)
        source.stop()
        data = source.save()
        found = stream.parse(data)
        assert found.trailer is not None
        records = [record for record in found.trailer.records if isinstance(record, InodeIdentities)]
        assert [len(record.ids) for record in records] == [IDENTITIES_PER_RECORD, 101]
        assert b"".join(trailer.write([codec.encode(found.state, trailer_follows=True)], found.trailer.records)) == data
        with loaded(data, tmp_path, config) as destination:
            assert destination.guest.device.inode_count == source.guest.device.inode_count


def test_a_column_outlives_the_windows_it_was_made_of() -> None:
    """The collector of cycles clears a memoryview that is in one, which gives up its bytes, whoever has them by it."""
    window = memoryview(bytearray(range(64)))[8:16]
    column = Column(window, 1, 0, 8)
    window.release()
    assert list(column) == list(range(8, 16))
