"""Guest memory: which regions are taken, what a wrong one is told, where mappings lie and when they go."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from ferryfs.errors import FrontendError
from ferryfs.ring.harness import mark, peek
from ferryfs.ring.memory import GuestMemory

PAGE = 4096
TOP = 1 << 64
BEYOND = 1 << 62


@pytest.fixture
def fd() -> Iterator[int]:
    """A file of 16 pages, each filled with its number."""
    fd = os.memfd_create("ferryfs-test")
    os.pwrite(fd, b"".join(bytes([i]) * PAGE for i in range(16)), 0)
    yield fd
    os.close(fd)


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory()
    yield memory
    memory.close()


def mappings() -> int:
    """Number of mappings of this process that lie on a file of these tests."""
    return Path("/proc/self/maps").read_text().count("memfd:ferryfs-test")


def test_regions_are_found_by_guest_address(memory: GuestMemory, fd: int) -> None:
    memory.add(8 * PAGE, PAGE, 0x1000000, 3 * PAGE, fd)
    memory.add(0, 2 * PAGE, 0x2000000, PAGE, fd)
    memory.add(9 * PAGE, PAGE, 0x3000000, 7 * PAGE + 100, fd)
    assert memory.regions() == [
        (0, 2 * PAGE, 0x2000000),
        (8 * PAGE, PAGE, 0x1000000),
        (9 * PAGE, PAGE, 0x3000000),
    ]
    assert len(memory) == 3
    assert peek(memory, 0, PAGE + 1) == b"\1" * PAGE + b"\2"
    assert peek(memory, 2 * PAGE - 1, 9) == b"\2"
    assert peek(memory, 2 * PAGE, 1) == b""
    assert peek(memory, 8 * PAGE - 1, 1) == b""
    assert peek(memory, 9 * PAGE - 2, 9) == b"\3\3"
    assert peek(memory, 10 * PAGE - 101, 9) == b"\7" + b"\x08" * 8
    assert peek(memory, 10 * PAGE, 1) == b""
    assert peek(memory, TOP - 1, 9) == b""


@pytest.mark.parametrize(
    ("guest", "size", "user", "offset", "says"),
    [
        (PAGE, 0, 0, 0, "is empty"),
        (TOP - PAGE, PAGE, 0, 0, "beyond the address space"),
        (0, PAGE, TOP - PAGE, 0, "beyond the address space"),
        (0, TOP - 1, 0, 0, "beyond the address space"),
        (0, BEYOND, 0, 0, "beyond the address space"),
        (0, PAGE, 0, BEYOND, "beyond the address space"),
        (0, PAGE, 0, TOP - 1, "beyond the address space"),
        (1 << 40, 17 * PAGE, 0, 0, "has 65536 bytes"),
        (1 << 40, 16 * PAGE, 0, 1, "has 65536 bytes"),
        (0, PAGE, 0, 16 * PAGE, "has 65536 bytes"),
        (8 * PAGE, 1, 0, 0, "overlaps"),
        (9 * PAGE, PAGE, 0, 0, "overlaps"),
        (7 * PAGE, PAGE + 1, 0, 0, "overlaps"),
        (0, 16 * PAGE, 0, 0, "overlaps"),
    ],
)
def test_regions_that_can_not_be(
    memory: GuestMemory, fd: int, guest: int, size: int, user: int, offset: int, says: str
) -> None:
    memory.add(8 * PAGE, 2 * PAGE, 0x1000000, 0, fd)
    with pytest.raises(FrontendError, match=says) as caught:
        memory.add(guest, size, user, offset, fd)
    assert f"{guest:#x}" in str(caught.value)
    assert len(memory) == 1
    memory.add(10 * PAGE, PAGE, 0, 0, fd)
    memory.add(7 * PAGE, PAGE, 0, 0, fd)


def test_memory_that_is_not_shared_is_told_what_to_do(memory: GuestMemory, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * PAGE)
    read_only = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        with pytest.raises(FrontendError, match=r"memory-backend-memfd.+share=on"):
            memory.add(0, PAGE, 0, 0, read_only)
    finally:
        os.close(read_only)


def test_all_slots_and_no_more(memory: GuestMemory, fd: int) -> None:
    before = mappings()
    for i in range(509):
        memory.add(2 * i * PAGE, PAGE, 2 * i * PAGE, 0, fd)
    with pytest.raises(FrontendError, match="509"):
        memory.add(2 * 509 * PAGE, PAGE, 0, 0, fd)
    assert mappings() == before + 509
    memory.remove(4 * PAGE, PAGE, 4 * PAGE)
    assert peek(memory, 4 * PAGE, 1) == b""
    assert peek(memory, 6 * PAGE, 1) == b"\0"
    memory.add(4 * PAGE, PAGE, 0, PAGE, fd)
    assert peek(memory, 4 * PAGE, 1) == b"\1"
    memory.close()
    assert mappings() == before
    memory.close()


def test_remove_takes_exact_values_only(memory: GuestMemory, fd: int) -> None:
    memory.add(PAGE, PAGE, 2 * PAGE, 0, fd)
    for guest, size, user in ((0, PAGE, 2 * PAGE), (PAGE, 1, 2 * PAGE), (PAGE, PAGE, PAGE)):
        with pytest.raises(FrontendError, match="no memory region"):
            memory.remove(guest, size, user)
    memory.remove(PAGE, PAGE, 2 * PAGE)
    assert len(memory) == 0


def test_a_bad_table_leaves_none(memory: GuestMemory, fd: int) -> None:
    before = mappings()
    memory.set_table([(0, PAGE, 0, 0, fd)])
    with pytest.raises(FrontendError):
        memory.set_table([(PAGE, PAGE, 0, 0, fd), (PAGE, PAGE, 0, 0, fd)])
    assert len(memory) == 0
    assert mappings() == before


def test_the_log(memory: GuestMemory, fd: int) -> None:
    """One bit a page, from the offset in the file on, never beyond its size; a second log replaces the first."""
    view = mmap.mmap(fd, 16 * PAGE)
    view[:] = bytes(16 * PAGE)
    mark(memory, 0, PAGE)
    memory.set_log(fd, PAGE + 3, 2)
    mark(memory, 0, PAGE)
    assert not any(view[:]), "not switched on yet"
    memory.set_log_on(True)
    mark(memory, PAGE - 1, 2)
    mark(memory, 9 * PAGE, PAGE)
    mark(memory, 15 * PAGE, 64 * PAGE)
    mark(memory, 1 << 40, PAGE)
    mark(memory, TOP - 1, 1)
    mark(memory, 5 * PAGE, 0)
    assert view[PAGE + 3 : PAGE + 5] == b"\x03\x82"
    assert sum(view[:]) == 0x85
    memory.set_log(fd, 0, 1)
    mark(memory, 7 * PAGE, 1)
    assert view[0] == 0x80
    memory.set_log_on(False)
    mark(memory, 6 * PAGE, 1)
    assert view[0] == 0x80
    view.close()


@pytest.mark.parametrize(("offset", "size"), [(0, 0), (TOP - 1, 1), (0, TOP - 1), (BEYOND, 1), (16 * PAGE, 1)])
def test_logs_that_can_not_be(memory: GuestMemory, fd: int, offset: int, size: int) -> None:
    with pytest.raises(FrontendError, match="log"):
        memory.set_log(fd, offset, size)


def child(program: str, *fds: int) -> subprocess.CompletedProcess[str]:
    """Runs a program that may crash, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(program)],
        pass_fds=fds,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("side", ["before", "behind"])
@pytest.mark.parametrize("pages", [1, 511, 512, 1025])
def test_guest_memory_lies_between_guard_pages(side: str, pages: int) -> None:
    """The byte before the first and the one behind the last can't be touched."""
    done = child(f"""
        import ctypes, os
        from ferryfs.ring.harness import Ring
        from ferryfs.ring.memory import GuestMemory
        fd = os.memfd_create("ferryfs-test")
        os.ftruncate(fd, {pages} * 4096)
        memory = GuestMemory()
        memory.add(0, {pages} * 4096, 0, 0, fd)
        ring = Ring(memory, 2)
        assert ring.attach(0, 64, 128, True) == 0
        start = ring.host_addresses()[0]
        ctypes.string_at(start, {pages} * 4096)
        print("inside", flush=True)
        ctypes.string_at({"start - 1" if side == "before" else f"start + {pages} * 4096"}, 1)
        print("outside", flush=True)
    """)
    assert done.stdout == "inside\n"
    assert done.returncode == -signal.SIGSEGV


def test_a_truncated_file_is_a_flag_and_not_the_end() -> None:
    """The front-end takes its memory away while it is read and written: each access ends, and the flag says so once."""
    done = child("""
        import os
        from ferryfs.ring.harness import Ring, peek
        from ferryfs.ring.memory import GuestMemory, install_sigbus_handler, memory_was_lost
        install_sigbus_handler()
        fd = os.memfd_create("ferryfs-test")
        os.ftruncate(fd, 16 * 4096)
        memory = GuestMemory()
        memory.add(0, 16 * 4096, 0, 0, fd)
        ring = Ring(memory, 2)
        assert ring.attach(0, 64, 128, True) == 0
        assert not memory_was_lost()
        os.ftruncate(fd, 0)
        ring.push(0, 1)
        assert memory_was_lost()
        assert not memory_was_lost()
        assert peek(memory, 8 * 4096, 3) == bytes(3)
        assert memory_was_lost()
        memory.close()
        print("alive")
    """)
    assert done.stderr == ""
    assert done.stdout == "alive\n"
    assert done.returncode == 0


def test_a_fault_elsewhere_is_still_the_end() -> None:
    """Only guest memory is mended: SIGBUS on another mapping kills the process, as it should."""
    done = child("""
        import ctypes, mmap, os
        from ferryfs.ring.memory import GuestMemory, install_sigbus_handler
        fd = os.memfd_create("other")
        os.ftruncate(fd, 4096)
        view = mmap.mmap(fd, 4096)
        install_sigbus_handler()
        os.ftruncate(fd, 0)
        print("before", flush=True)
        view[0]
        print("after", flush=True)
    """)
    assert done.stdout == "before\n"
    assert done.returncode == -signal.SIGBUS


@pytest.fixture
def huge_page() -> Iterator[None]:
    """One free huge page, reserved for the test where the kernel has none and we may."""
    reserve = Path("/proc/sys/vm/nr_hugepages")
    before = reserve.read_text()
    free = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("HugePages_Free"))
    if int(free.split()[1]) < 1:
        with contextlib.suppress(PermissionError):
            reserve.write_text(str(int(before) + 1))
        if reserve.read_text() == before:
            pytest.skip(f"no free huge page, and none to be had: echo 8 > {reserve}")
    yield
    if reserve.read_text() != before:
        reserve.write_text(before)


@pytest.mark.usefixtures("huge_page")
def test_huge_pages_by_whole_pages(memory: GuestMemory) -> None:
    """QEMU cuts guest memory at 640 KiB; on huge pages neither the offset nor the length fits a page then."""
    fd = os.memfd_create("ferryfs-test", os.MFD_HUGETLB)
    try:
        os.ftruncate(fd, 2 << 20)
        before = mappings()
        memory.add(0, 0xA0000, 0, 0, fd)
        memory.add(0xC0000, (2 << 20) - 0xC0000, 0xC0000, 0xC0000, fd)
        assert peek(memory, 0xC0000, 2) == b"\0\0"
        memory.close()
        assert mappings() == before
    finally:
        os.close(fd)
