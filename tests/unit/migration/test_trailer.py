"""The trailer: there and back, every damage noticed, unknown records as their tag says, values checked against the
state.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferryfs.errors import StateError
from ferryfs.migration import stream, trailer
from ferryfs.migration.codec import encode
from ferryfs.migration.state import StateV2
from ferryfs.migration.trailer_identities import InodeIdentities
from ferryfs.migration.trailer_records import (
    Content,
    DirectoryEntry,
    HalfRead,
    Lost,
    LostInodes,
    Mount,
    Mounts,
    Name,
    Names,
    Negotiated,
    Record,
    Unlinked,
)
from ferryfs.wire.postcard import Reader, Writer
from migration.samples import BARE, EXT4, IDENTITIES, RECORDS, STATE


def whole(*records: Record) -> bytes:
    return b"".join(stream.save(STATE, records))


SAMPLE = whole(*RECORDS)
STATE_BYTES = len(encode(STATE, trailer_follows=True))


def resealed(body: bytes) -> bytes:
    """A stream without its end record, closed again with a right one."""
    head = body + struct.pack("<BBQ", 0, 12, len(body) + 14)
    return head + struct.pack("<I", zlib.crc32(head))


def test_there_and_back() -> None:
    """Every kind of record comes back equal."""
    loaded = stream.load(SAMPLE)
    assert loaded.trailer is not None
    assert isinstance(loaded.state, StateV2)
    v1 = replace(loaded.state.v1, inodes=tuple(loaded.state.v1.inodes))
    assert replace(loaded.state, v1=v1) == STATE
    assert loaded.trailer.records == RECORDS
    assert (STATE_BYTES, len(SAMPLE)) == (loaded.state_bytes, loaded.total_bytes)


def test_the_sample_has_every_kind() -> None:
    """A record kind that is added to the table must be added to the sample."""
    assert set(trailer.TAGS.values()) == {type(record) for record in RECORDS}


def test_every_truncation_is_refused() -> None:
    """Also the one at which a whole state of virtiofsd remains: the promise tells."""
    for length in range(len(SAMPLE)):
        with pytest.raises(StateError):
            stream.load(SAMPLE[:length])
    with pytest.raises(StateError, match=f"is cut: it ends after {STATE_BYTES} bytes, where its trailer should begin"):
        stream.load(SAMPLE[:STATE_BYTES])


def test_every_flipped_bit_is_noticed() -> None:
    """In the state as in the trailer: none leads to a loaded state, none to another exception."""
    for position in range(len(SAMPLE) * 8):
        data = bytearray(SAMPLE)
        data[position // 8] ^= 1 << position % 8
        with pytest.raises(StateError):
            stream.load(data)


def test_rubbish_is_refused() -> None:
    """Behind a state, behind a trailer, and a second trailer."""
    bare = encode(STATE)
    for data in (bare + b"\0", bare + b"rubbish" * 10, SAMPLE + b"\0", SAMPLE + SAMPLE[STATE_BYTES:]):
        with pytest.raises(StateError):
            stream.load(data)
    with pytest.raises(StateError, match="70 bytes follow that are no trailer of ferryfs"):
        stream.load(bare + b"rubbish" * 10)


def test_a_state_without_trailer() -> None:
    """As virtiofsd writes it."""
    bare = b"".join(stream.save(STATE, None))
    assert encode(STATE) == bare
    assert stream.load(bare).trailer is None


def test_an_unknown_optional_record_is_skipped() -> None:
    """An odd tag: nothing is lost but what it said."""
    frame = Writer()
    frame.u64(99)
    frame.byte_string(b"from the future")
    data = resealed(SAMPLE[:-14] + frame.getvalue())
    loaded = stream.load(data).trailer
    assert loaded is not None
    assert (loaded.records, loaded.skipped) == (RECORDS, (99,))


@pytest.mark.parametrize(
    ("behind_magic", "said"),
    [
        (b"\x01\x62\x00", "needs a ferryfs that knows records of kind 98"),
        (b"\x02", "the trailer is of version 2"),
        (b"\x01\x02\x05\x07", "claims 5 bytes"),
        (b"\x01\x00\x00", "records of kind 0"),
        (b"\x01\x09\x02\x00\x00", "1 bytes too many behind a record Names"),
        (b"\x01\x09\x09\xff\xff\xff\xff\xff\xff\xff\xff\x0f", "names are announced"),
        (b"\x01\x03\x0b\x00\x80\x80\x80\x80\x80\x80\x80\x80\x10\x00", "are announced|bytes left|are left"),
    ],
)
def test_well_sealed_nonsense(behind_magic: bytes, said: str) -> None:
    """A right checksum makes nothing trusted."""
    with pytest.raises(StateError, match=said):
        stream.load(resealed(SAMPLE[:STATE_BYTES] + trailer.MAGIC + behind_magic))


@given(st.binary(max_size=200), st.sampled_from(sorted(trailer.TAGS)))
def test_any_payload_reads_or_is_refused(payload: bytes, tag: int) -> None:
    """A sealed trailer with a random record: a value or StateError, nothing else."""
    frame = Writer()
    frame.u64(tag)
    frame.byte_string(payload)
    with suppress(StateError):
        stream.load(resealed(SAMPLE[:STATE_BYTES] + trailer.MAGIC + b"\x01" + frame.getvalue()))


@given(st.data())
def test_damaged_records_behind_a_right_checksum(data: st.DataObject) -> None:
    """The sample with a byte of a record changed and sealed again: a value or StateError."""
    broken = bytearray(SAMPLE[:-14])
    for _ in range(data.draw(st.integers(1, 3))):
        broken[data.draw(st.integers(STATE_BYTES + 9, len(broken) - 1))] = data.draw(st.integers(0, 255))
    with suppress(StateError):
        stream.load(resealed(bytes(broken)))


MOUNTS = RECORDS[0]
FILE = RECORDS[4]
assert isinstance(FILE, Unlinked)

BAD: list[tuple[list[Record], str]] = [
    ([MOUNTS, MOUNTS], "lists the mounts 2 times"),
    ([RECORDS[1], RECORDS[1]], "2 records Negotiated"),
    ([Mounts((Mount(1, b"a", EXT4),))], "path b'a' that is out of place"),
    ([Mounts((Mount(1, b".", EXT4), Mount(2, b".", EXT4)))], "is out of place"),
    ([Mounts((Mount(1, b".", EXT4), Mount(2, b"a/../..", EXT4)))], "has a component that is a directory's name"),
    ([Mounts((Mount(1, b".", EXT4), Mount(2, b"/a", EXT4)))], "is absolute"),
    ([Mounts((Mount(1, b".", replace(BARE, handle=bytes(129))),))], "file handle of 129 bytes"),
    ([IDENTITIES], "of its mount 0, but lists 0"),
    ([MOUNTS, replace(IDENTITIES, names=b"a/bfile")], "which contains a '/'"),
    ([replace(FILE, inode=77)], "unlinked file 77, which the state has not"),
    ([FILE, FILE], "or has twice"),
    ([replace(FILE, xattrs=((b"", b"x"),))], "empty or contains a NUL"),
    ([replace(FILE, inode=299, refcount=1), LostInodes((Lost(299, 1, 5, ""),))], "the inode 299, .* twice"),
    ([LostInodes((Lost(299, 1, 5, ""),)), LostInodes((Lost(299, 2, 5, ""),))], "the inode 299, .* twice"),
    ([Content(7, 0, b"x")], "1 bytes for offset 0 of the unlinked file 7, where they can't be"),
    ([FILE, Content(7, 1 << 40, b"x")], "where they can't be"),
    ([FILE, Content(7, 4, b"xx"), Content(7, 5, b"x")], "where they can't be"),
    ([replace(FILE, has_content=False), Content(7, 0, b"x")], "where they can't be"),
    ([HalfRead(9, 0, (), True)], "half-read directory 9"),
    ([HalfRead(2, 0, (DirectoryEntry(1, 1, 8, b"a/b"),), True)], "an entry that contains a '/'"),
    ([Names((Name(5, 1, b".."),))], "directory's name"),
    ([Names((Name(5, 0, b"/etc"),))], "is absolute"),
    ([Names((Name(3, 1, b"x"),))], "has none to be given"),
    ([Names((Name(5, 77, b"x"),))], "has none to be given"),
    ([Names((Name(5, 1, b"x"), Name(5, 1, b"y")))], "two names for inode 5"),
    ([Names((Name(5, 6, b"x"), Name(6, 5, b"y")))], "in a loop at inode"),
    ([replace(FILE, size=1 << 63)], "bytes, which no file has"),
    ([LostInodes((Lost(8, 0, 4096, ""),))], "an errno for a lost inode that is above 4095"),
    ([LostInodes((Lost(77, 0, 5, ""),))], "which the state has not|that the state has not"),
]


@pytest.mark.parametrize(("records", "said"), BAD)
def test_values_are_checked_against_the_state(records: list[Record], said: str) -> None:
    """Each fault of a trailer's values is refused by the door, in a sentence."""
    with pytest.raises(StateError, match=said):
        stream.load(whole(*records))


def test_identities_of_many_inodes_are_small_and_come_back() -> None:
    """65,536 inodes of one file system: about 20 bytes each, handles included."""
    count = 1 << 16
    many = InodeIdentities(
        shapes=IDENTITIES.shapes[:1],
        ids=array("Q", range(5_000_000, 5_000_000 + 3 * count, 3)),
        shape_of=bytes(count),
        kinds=bytes([8]) * count,
        sizes=array("Q", [n * 7 % 100_000 for n in range(count)]),
        mtimes_ns=array("q", [1_700_000_000_000_000_000 + n * 1_000_003 for n in range(count)]),
        parents=array("Q"),
        name_lengths=array("Q"),
        names=b"",
        handles=bytes(8 * count),
    )
    writer = Writer()
    many.write(writer)
    assert len(writer) < 27 * count
    assert many == InodeIdentities.read(Reader(writer.getvalue()))


def test_negotiated_is_found() -> None:
    """By kind."""
    loaded = stream.load(SAMPLE).trailer
    assert loaded is not None
    assert RECORDS[1] == loaded.only(Negotiated)


def test_the_writer_takes_records_one_by_one() -> None:
    """Content of 64 MiB is never held at once: a record is taken when the one before has left."""
    taken = 0

    def records() -> Iterator[Record]:
        nonlocal taken
        yield replace(FILE, size=1 << 30)
        for index in range(100):
            taken += 1
            yield Content(7, index << 10, bytes(1 << 10))

    pieces = stream.save(STATE, records())
    for count, _ in enumerate(pieces):
        assert taken <= count
