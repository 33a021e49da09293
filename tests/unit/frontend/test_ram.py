"""Guest memory as the front-end makes it: regions with guard pages between."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from ferryfs.frontend.ram import GuestRam


def test_memory_outside_of_the_regions_is_refused() -> None:
    with GuestRam([4096, 8192], base=0x1000, gap=0x10000) as ram:
        ram.write(0x1000 + 4096 - 4, b"last")
        assert ram.read(0x1000 + 4096 - 4, 4) == b"last"
        for gpa, length in ((0x0, 1), (0x1000 + 4096, 1), (0x1000 + 4090, 7), (0x2000, 0x10000), ((1 << 64) - 1, 2)):
            with pytest.raises(ValueError, match="no guest memory"):
                ram.read(gpa, length)
        second = ram.regions[1]
        assert second[:2] == (0x2000 + 0x10000, 8192)
        assert ram.alloc(100, align=64, region=1, at_end=True) == second[0] + 8192 - 128
        with pytest.raises(ValueError, match="no room"):
            ram.alloc(8192, region=1)
        mark = ram.mark()
        first = ram.alloc(64)
        ram.rewind(mark)
        assert ram.alloc(64) == first


def test_the_page_behind_a_region_kills_whoever_touches_it() -> None:
    """The sanitizer suite relies on it: a stray access does not land in whatever lies next."""
    program = (
        "import ctypes; from ferryfs.frontend.ram import GuestRam\n"
        "ram = GuestRam([4096]); at = ram.regions[0][2]\n"
        "assert ctypes.string_at(at + 4095, 1) == bytes(1)\n"
        "ctypes.string_at(at + {offset}, 1)\n"
    )
    for offset in (4096, -1):
        done = subprocess.run(
            [sys.executable, "-c", program.format(offset=offset)], check=False, stderr=subprocess.DEVNULL
        )
        assert done.returncode == -signal.SIGSEGV
