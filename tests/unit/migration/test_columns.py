"""Columns against the obvious Python."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferryfs.migration import columns
from ferryfs.migration.columns import Column
from ferryfs.migration.state import name_fault

U64 = st.integers(0, (1 << 64) - 1)
NAMES = st.lists(st.sampled_from([b"", b".", b"..", b"a", b"...", b"a/b", b"\0", b".nfs1", b"x" * 4095, b"x" * 4096]))


@pytest.mark.parametrize("width", [1, 2, 4, 8])
@given(data=st.data())
def test_numbers_there_and_back(width: int, data: st.DataObject) -> None:
    """Equal-width little-endian differences to a base, whatever the base."""
    differences = data.draw(st.lists(st.integers(0, (1 << 8 * width) - 1)))
    most = max(differences, default=0)
    base = data.draw(st.integers(0, (1 << 64) - 1 - most))
    values = array("Q", [base + difference for difference in differences])
    values = array("Q", [base + difference for difference in differences])
    packed = columns.narrow(values, width, base)
    assert bytes(packed) == b"".join(difference.to_bytes(width, "little") for difference in differences)
    column = Column(memoryview(packed), width, base, len(values))
    assert column == values == column.numbers()
    assert list(column) == values.tolist() == [column[index] for index in range(len(column))]
    assert column[1:3] == values.tolist()[1:3]
    assert columns.narrow(column, width, base) == packed
    assert columns.bounds(column) == columns.bounds(values)
    assert columns.is_ascending(column) == columns.is_ascending(values)
    assert columns.add_up(column, sum(values) % 2**64) == (sum(values) < 2**64)


def test_equal_numbers_take_no_bytes() -> None:
    column = Column(b"", 0, 7, 3)
    assert column == array("Q", [7, 7, 7])
    assert 7 in column
    assert 8 not in column
    with pytest.raises(IndexError):
        column[3]
    with pytest.raises(IndexError):
        column[-1]


@pytest.mark.parametrize("wrong", [(b"1", 0, 1), (b"1", 1, 2), (b"123", 3, 1)])
def test_data_of_another_length_is_refused(wrong: tuple[bytes, int, int]) -> None:
    """A walk along the numbers would leave the bytes."""
    data, width, count = wrong
    with pytest.raises(ValueError, match="not as long"):
        Column(data, width, 0, count)


def test_more_than_64_bits_are_refused() -> None:
    assert Column(b"\xff", 1, (1 << 64) - 256, 1) == array("Q", [(1 << 64) - 1])
    with pytest.raises(OverflowError):
        Column(b"\xff", 1, (1 << 64) - 255, 1)
    with pytest.raises(OverflowError):
        Column(b"\x01" + bytes(6) + b"\x80", 8, 1 << 63, 1)


@given(st.binary())
def test_tally(values: bytes) -> None:
    assert columns.tally(values) == [values.count(value) for value in range(256)]


@given(st.lists(U64))
def test_bounds_and_order(values: list[int]) -> None:
    column = array("Q", values)
    assert columns.bounds(column) == (min(values, default=0), max(values, default=0))
    assert columns.is_ascending(column) == (sorted(set(values)) == values)


@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1)))
def test_signed_numbers_keep_their_order(values: list[int]) -> None:
    turned = columns.biased(array("q", values))
    assert list(turned) == [value + (1 << 63) for value in values]
    assert columns.biased(turned) == array("q", values)
    column = Column(columns.narrow(turned, 8, 0), 8, 0, len(values), signed=True)
    assert column == array("q", values)
    assert columns.biased(column) == turned


@given(NAMES)
def test_bad_names(names: list[bytes]) -> None:
    """The same verdict as on the names of a state; an empty one stands for none."""
    wanted = next((index for index, name in enumerate(names) if name and name_fault(name)), -1)
    assert columns.first_bad_name(array("Q", map(len, names)), b"".join(names)) == wanted


def test_a_sum_that_wraps_is_none() -> None:
    """Lengths that only add up beyond 64 bits would lead out of the names."""
    assert columns.add_up(array("Q", [3, 0, 4]), 7)
    assert columns.add_up(array("Q"), 0)
    assert not columns.add_up(array("Q", [3, 4]), 8)
    assert not columns.add_up(array("Q", [3, 4]), 6)
    assert not columns.add_up(array("Q", [2**64 - 1, 8]), 7)
