"""The primitives: every value there and back, every truncation refused, nothing allocated on a claim."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferryfs.errors import StateError
from ferryfs.wire.postcard import U32_MAX, U64_MAX, Reader, Writer, is_padded

# (method, value, encoding): the encodings are worked out by hand from the postcard specification.
TABLE: list[tuple[str, int, bytes]] = [
    ("u64", 0, b"\x00"),
    ("u64", 127, b"\x7f"),
    ("u64", 128, b"\x80\x01"),
    ("u64", 300, b"\xac\x02"),
    ("u64", 1 << 60, b"\x80\x80\x80\x80\x80\x80\x80\x80\x10"),
    ("u64", U64_MAX, b"\xff" * 9 + b"\x01"),
    ("u32", U32_MAX, b"\xff\xff\xff\xff\x0f"),
    ("i32", 0, b"\x00"),
    ("i32", -1, b"\x01"),
    ("i32", 1, b"\x02"),
    ("i32", 0o100000, b"\x80\x80\x04"),
    ("i32", -(1 << 31), b"\xff\xff\xff\xff\x0f"),
    ("i32", (1 << 31) - 1, b"\xfe\xff\xff\xff\x0f"),
    ("i64", -(1 << 63), b"\xff" * 9 + b"\x01"),
    ("u8", 255, b"\xff"),
]


@pytest.mark.parametrize(("method", "value", "encoding"), TABLE)
def test_numbers(method: str, value: int, encoding: bytes) -> None:
    """Each number has the encoding of the specification, and reads back whole, with rubbish behind, and never cut."""
    writer = Writer()
    getattr(writer, method)(value)
    assert encoding == writer.getvalue()
    for behind in (b"", b"\x00", b"\xff"):
        reader = Reader(encoding + behind)
        assert value == getattr(reader, method)("a number")
        assert len(encoding) == reader.offset
    for length in range(len(encoding)):
        with pytest.raises(StateError, match=r"byte \d+ of the state"):
            getattr(Reader(encoding[:length]), method)("a number")


@given(st.integers(0, U64_MAX >> 1))
def test_padded_is_the_same_number(value: int) -> None:
    """One zero group more changes the spelling only."""
    writer = Writer()
    writer.u64_padded(value)
    encoded = writer.getvalue()
    assert value == Reader(encoded).u64("a number")
    assert is_padded(memoryview(encoded))
    plain = Writer()
    plain.u64(value)
    assert len(plain) + 1 == len(encoded)
    assert not is_padded(memoryview(plain.getvalue()))


@pytest.mark.parametrize(
    ("method", "data"),
    [
        ("u64", b"\xff" * 9 + b"\x02"),
        ("u64", b"\x80" * 10 + b"\x00"),
        ("u32", b"\xff\xff\xff\xff\x10"),
        ("u32", b"\x80" * 6),
        ("i32", b"\xff\xff\xff\xff\x7f"),
        ("boolean", b"\x02"),
        ("option", b"\xff"),
        ("string", b"\x02\xc3\x28"),
        ("string", b"\x03\xed\xa0\x80"),
        ("string", b"\x80\x80\x80\x80\x80\x80\x80\x80\x10x"),
        ("byte_string", b"\x05abcd"),
    ],
)
def test_refused(method: str, data: bytes) -> None:
    """Overlong and too large numbers, bad flags, bad UTF-8 (surrogates too), lengths past the end."""
    with pytest.raises(
        StateError, match=r"^byte 0 of the state: the thing|^byte 0 of the state: the length of the thing"
    ):
        getattr(Reader(data), method)("the thing")


@pytest.mark.parametrize("claimed", [3, 1000, 1 << 60, U64_MAX])
def test_count_is_bounded_by_what_is_left(claimed: int) -> None:
    """A count is refused before anybody allocates for it."""
    writer = Writer()
    writer.u64(claimed)
    writer.raw(bytes(5))
    with pytest.raises(StateError, match=f"{claimed} things are announced, but only 5 bytes are left"):
        Reader(writer.getvalue()).count(2, "things")


def test_offsets_count_from_the_base() -> None:
    """A part of a stream reports where in the stream its fault is."""
    reader = Reader(b"\x00\x05", base=1000)
    reader.boolean("a flag")
    with pytest.raises(StateError, match="byte 1001 of the state"):
        reader.boolean("another")


def test_end() -> None:
    """Input that nobody took is an error."""
    reader = Reader(b"\x01\x02")
    reader.u8("a byte")
    with pytest.raises(StateError, match="1 bytes too many behind the record"):
        reader.end("the record")


@given(st.lists(st.one_of(st.binary(), st.text(), st.integers(0, U64_MAX), st.booleans())))
def test_round_trip(values: list[bytes | str | int | bool]) -> None:
    """What was written is read back in order, to the end."""
    writer = Writer()
    for value in values:
        match value:
            case bool():
                writer.boolean(value)
            case int():
                writer.u64(value)
            case str():
                writer.string(value)
            case bytes():
                writer.byte_string(value)
    reader = Reader(writer.getvalue())
    for value in values:
        match value:
            case bool():
                assert value is reader.boolean("b")
            case int():
                assert value == reader.u64("n")
            case str():
                assert value == reader.string("s")
            case bytes():
                assert value == reader.byte_string("y")
    reader.end("all")


@given(
    st.binary(max_size=40), st.sampled_from(["u8", "u32", "u64", "i32", "i64", "boolean", "option", "string", "view"])
)
def test_anything_reads_or_is_refused(data: bytes, method: str) -> None:
    """A value or StateError; never another exception, never past the end."""
    reader = Reader(data)
    with suppress(StateError):
        getattr(reader, method)("it")
    assert 0 <= reader.offset <= len(data)
