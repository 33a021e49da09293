"""The whole stream: state, then our trailer where there is one. One call from bytes to checked values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ferryfs.errors import StateError
from ferryfs.migration import bulk, codec, state, trailer
from ferryfs.migration.trailer_records import Record
from ferryfs.values import frozen


@frozen
class Stream:
    """What a stream said, checked."""

    state: state.State
    # None in a stream of virtiofsd.
    trailer: trailer.Trailer | None
    # Bytes of the state, and of all.
    state_bytes: int
    total_bytes: int


def parse(data: bytes | bytearray | memoryview) -> Stream:
    """Reads a whole stream without judging its values. Raises StateError for what is cut, damaged or followed by
    rubbish.
    """
    return _with_trailer(data, codec.decode(data))


def _with_trailer(data: bytes | bytearray | memoryview, decoded: codec.Decoded) -> Stream:
    total = len(memoryview(data))
    found = None
    if decoded.end < total:
        found = trailer.read(data, decoded.end)
    elif decoded.trailer_promised:
        raise StateError(f"the state is cut: it ends after {total} bytes, where its trailer should begin")
    return Stream(decoded.state, found, decoded.end, total)


def load(data: bytes | bytearray | memoryview) -> Stream:
    """Reads a whole stream and lets it through the doors: what comes back may be acted upon. Raises StateError."""
    records = bulk.parse(data)
    if records is None:
        stream = parse(data)
        state.validate(stream.state)
    else:
        decoded = codec.decode_behind(data, records.end, records.version, records, records.padded)
        stream = _with_trailer(data, decoded)
        state.validate_behind(stream.state, records, records.max_id)
    if stream.trailer is not None:
        trailer.validate(stream.trailer, stream.state)
    return stream


def save(saved: state.State, records: Iterable[Record] | None) -> Iterator[bytes | memoryview]:
    """The stream in pieces; without a trailer when ``records`` is None, and then as virtiofsd writes it."""
    if records is None:
        yield codec.encode(saved)
    else:
        yield from trailer.write([codec.encode(saved, trailer_follows=True)], records)
