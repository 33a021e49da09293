"""The fast road of a load against the slow one: what it takes, it reads alike; what it can't vouch for, it leaves."""

import gc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from ferryfs.errors import StateError
from ferryfs.migration import bulk, codec, state

from .strategies import good_state

GOLDEN = sorted((Path(__file__).parents[2] / "golden").glob("*.bin"))


def slow(data: bytes) -> codec.Decoded | None:
    """What codec and validate make of a stream; None when they refuse it."""
    try:
        decoded = codec.decode(data)
        state.validate(decoded.state)
    except StateError:
        return None
    return decoded


def agree(data: bytes) -> bool:
    """Whether the fast road took the stream; it must then have read what the slow one reads."""
    records = bulk.parse(data)
    if records is None:
        return False
    decoded = codec.decode_behind(data, records.end, records.version, records, records.padded)
    state.validate_behind(decoded.state, records, records.max_id)
    expected = slow(data)
    assert expected is not None
    assert (expected.end, expected.trailer_promised) == (decoded.end, decoded.trailer_promised)
    inodes = state.body(expected.state).inodes
    assert list(inodes) == list(records)
    for inode in inodes:
        assert inode.id in records
        assert records.get(inode.id) == inode
    assert state.body(expected.state).handles == state.body(decoded.state).handles
    return True


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_streams_take_the_fast_road(path: Path) -> None:
    assert agree(path.read_bytes())


@pytest.mark.parametrize("path", GOLDEN[:3], ids=lambda path: path.stem)
def test_cut_streams(path: Path) -> None:
    data = path.read_bytes()
    end = codec.decode(data).end
    for length in range(end):
        records = bulk.parse(data[:length])
        if records is not None:
            # Only the inodes are the fast road's: what is cut behind them is refused by who reads that.
            assert records.end <= length
            with pytest.raises(StateError):
                codec.decode_behind(data[:length], records.end, records.version, records, records.padded)


@pytest.mark.parametrize("path", GOLDEN[:6], ids=lambda path: path.stem)
def test_flipped_bits(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for at in range(min(len(data), 600)):
        for bit in range(8):
            data[at] ^= 1 << bit
            records = bulk.parse(bytes(data))
            if records is not None:
                try:
                    codec.decode(bytes(data))
                    agree(bytes(data))
                except StateError:
                    # What stands behind the inodes is wrong: both roads say so.
                    assert slow(bytes(data)) is None
            data[at] ^= 1 << bit


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(good_state())
def test_any_state(value: state.State) -> None:
    data = codec.encode(value)
    if slow(data) is None:
        records = bulk.parse(data)
        if records is not None:
            # The fault is behind the inodes.
            with pytest.raises(StateError):
                state.validate_behind(
                    codec.decode_behind(data, records.end, records.version, records, records.padded).state,
                    records,
                    records.max_id,
                )
    else:
        agree(data)


def named(name: bytes) -> bytes:
    """A stream with a root and one file of that name."""
    value = state.StateV2(
        state.StateV1(
            (
                state.Inode(1, 3, state.RootNode(), None),
                state.Inode(2, 1, state.Path(1, "N" * len(name)), None),
            ),
            3,
            (),
            1,
            state.Options(False, False, False, False),
        ),
        (),
    )
    return codec.encode(value).replace(b"N" * len(name), name)


@pytest.mark.parametrize("text", ["ä", "日本", "\U0001f6f3", "\ud7ff", "\ue000", "a\x7f", "\U0010ffff"])
def test_names_in_utf_8(text: str) -> None:
    assert agree(named(text.encode()))


@pytest.mark.parametrize(
    "raw",
    [b"\xff", b"\xc0\x80", b"\xc3", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80", b"\xe2\x82"],
)
def test_names_that_are_not(raw: bytes) -> None:
    with pytest.raises(UnicodeDecodeError):
        raw.decode()
    assert bulk.parse(named(raw)) is None


@pytest.mark.parametrize("raw", [b".", b"..", b"a/b", b"/", b"a\0b", b"\0"])
def test_names_that_no_file_has(raw: bytes) -> None:
    assert bulk.parse(named(raw)) is None


def at_path(path: bytes) -> bytes:
    """A stream with a root, and a directory at that path that has a file in it."""
    inodes = (
        state.Inode(1, 2, state.RootNode(), None),
        state.Inode(2, 2, state.FullPath("N" * len(path)), None),
        state.Inode(3, 1, state.Path(2, "file"), None),
    )
    v1 = state.StateV1(inodes, 4, (), 1, state.Options(False, False, False, False))
    return codec.encode(v1).replace(b"N" * len(path), path)


@pytest.mark.parametrize("path", ["a", "a/b", "ä/日本/c", ".a/..b/c..", "x" * 4095 + "/y", "/".join(["deep"] * 30_000)])
def test_paths(path: str) -> None:
    """One inode that is known by its path alone does not send all the others along the slow road."""
    assert agree(at_path(path.encode()))


BAD_PATHS = ["", "/", "/a", "a/", "a//b", ".", "..", "./a", "a/..", "a/./b", "a/../b", "a\0b", "a/" + "x" * 4096]


@pytest.mark.parametrize("path", [*(bad.encode() for bad in BAD_PATHS), b"a/\xff", b"\xc3/a"])
def test_paths_that_lead_nowhere(path: bytes) -> None:
    assert slow(at_path(path)) is None
    assert bulk.parse(at_path(path)) is None


def test_a_parsed_stream_in_a_cycle(capfd: pytest.CaptureFixture[str]) -> None:
    """As a traceback makes them: the buffer is given back before its owner goes."""
    cycle: list[object] = [bulk.parse(bytearray(named(b"file")))]
    assert cycle[0] is not None
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert "SystemError" not in capfd.readouterr().err


@pytest.mark.parametrize("piece", ["é", "€", "𐍈", "\udc80"], ids=["two", "three", "four", "none"])
def test_names_beyond_ascii_anywhere(piece: str) -> None:
    """UTF-8 at any place of a name, whole or cut short, is taken as Python takes it."""
    raw = piece.encode("utf-8", "surrogateescape")
    inodes = (state.Inode(1, 3, state.RootNode(), None), state.Inode(2, 1, state.Path(1, "x" * 20), None))
    v1 = state.StateV1(inodes, 3, (), 1, state.Options(False, False, False, False))
    data = codec.encode(v1)
    for at in range(21 - len(raw)):
        for length in range(1, len(raw) + 1):
            name = b"x" * at + raw[:length]
            name += b"x" * (20 - len(name))
            told = data.replace(b"x" * 20, name)
            assert agree(told) == (slow(told) is not None) == (piece != "\udc80" and length == len(raw))
