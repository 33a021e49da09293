"""vhost/sharing.py on real files: what a guest without shared memory leaves in them, and what others do."""

import os
from collections.abc import Iterator

import pytest

from ferryfs.vhost.sharing import SharingCheck
from ferryfs.wire.vhost_user import MemoryRegion

MIB = 1 << 20
SIZE = 64 * MIB
REGION = MemoryRegion(0, SIZE, 0x7F0000000000, 0)


@pytest.fixture
def memory() -> Iterator[int]:
    fd = os.memfd_create("ram")
    os.truncate(fd, SIZE)
    yield fd
    os.close(fd)


def verdict(*parts: tuple[MemoryRegion, int]) -> str | None:
    check = SharingCheck()
    for region, fd in parts:
        check.add(region, fd)
    said = check.conclude()
    assert check.conclude() is None  # once is enough
    return said


def test_no_memory_at_all() -> None:
    said = verdict()
    assert said is not None
    assert said.startswith("The front-end gave no guest memory, so it is not shared")
    assert "memory-backend-memfd,id=mem,size=SIZE,share=on" in said


@pytest.mark.parametrize("written", [MIB, 3 * MIB, 20 * MIB])
def test_pages_that_are_there_and_zeros(memory: int, written: int) -> None:
    """A private mapping of the file: each page that the guest wrote exists, and is zeros."""
    os.pwrite(memory, bytes(written), 5 * MIB)
    assert "nothing but zeros" in (verdict((REGION, memory)) or "")


@pytest.mark.parametrize("place", [0, 5 * MIB + 4095, 7 * MIB - 1])
def test_one_byte_of_a_guest(memory: int, place: int) -> None:
    os.pwrite(memory, bytes(MIB), 5 * MIB)
    os.pwrite(memory, b"\1", place)
    assert verdict((REGION, memory)) is None


def test_memory_with_little_in_it_says_nothing(memory: int) -> None:
    """A front-end without a guest: empty rings and holes."""
    os.pwrite(memory, bytes(MIB - 4096), 5 * MIB)
    assert verdict((REGION, memory)) is None


def test_regions_of_one_file(memory: int) -> None:
    """The content counts where the region is, and nowhere else in the file."""
    os.pwrite(memory, bytes(2 * MIB), 0)
    os.pwrite(memory, b"guest", 40 * MIB)
    low = MemoryRegion(0, 32 * MIB, 0, 0)
    high = MemoryRegion(1 << 32, 32 * MIB, 1 << 40, 32 * MIB)
    assert verdict((low, memory), (high, memory)) is None
    assert verdict((low, memory)) is not None


def test_memory_that_is_no_file() -> None:
    with open("/dev/zero", "rb", buffering=0) as device:
        assert verdict((REGION, device.fileno())) is None


def test_regions_are_replaced_and_many(memory: int) -> None:
    os.pwrite(memory, bytes(2 * MIB), 0)
    check = SharingCheck()
    check.add(REGION, memory)
    check.clear()
    for number in range(100):
        check.add(REGION._replace(guest_addr=number << 40), memory)
    assert len(os.listdir("/proc/self/fd")) < 60
    check.close()
    check.add(REGION, memory)
    assert check.conclude() is None
