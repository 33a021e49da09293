"""Columns against the obvious Python."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferryfs.migration import columns
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
    packed = columns.narrow(values, width, base)
    assert bytes(packed) == b"".join(difference.to_bytes(width, "little") for difference in differences)
    assert columns.widen(memoryview(packed), width, base) == values


def test_more_than_64_bits_are_refused() -> None:
    assert columns.widen(b"\xff", 1, (1 << 64) - 256) == array("Q", [(1 << 64) - 1])
    with pytest.raises(OverflowError):
        columns.widen(b"\xff", 1, (1 << 64) - 255)


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
