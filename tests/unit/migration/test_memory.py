"""What a migration takes of memory for a moment is given back at its end, at both ends."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from migration.sides import Side

C = ctypes.CDLL(None)
BLOCK_BYTES, BLOCKS = 1024, 64 << 10

needs_trim = pytest.mark.skipif(
    not hasattr(C, "malloc_trim") or "libasan" in os.environ.get("LD_PRELOAD", ""),
    reason="this C library has no malloc_trim, or the address sanitizer's malloc takes its place",
)


def anonymous_bytes() -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return 1024 * int(line.split()[1])


def use_and_free() -> None:
    """Leaves holes between blocks that stay, as names between the pieces of a stream: malloc keeps the holes."""
    C.malloc.restype = ctypes.c_void_p
    C.free.argtypes = [ctypes.c_void_p]
    blocks = [C.malloc(BLOCK_BYTES) for _ in range(BLOCKS)]
    for block in blocks:
        ctypes.memset(ctypes.c_void_p(block), 1, BLOCK_BYTES)
    for index, block in enumerate(blocks):
        if index % 64:
            C.free(block)


@needs_trim
def test_both_ends_give_back_what_they_took(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Side(tmp_path) as source:
        source.walk("file")
        source.stop()
        before = anonymous_bytes()
        use_and_free()
        data = source.save()
        assert anonymous_bytes() - before < BLOCKS * BLOCK_BYTES // 4
        with Side(tmp_path, init=False) as destination:
            destination.stop()
            use_and_free()
            destination.load(data)
            assert anonymous_bytes() - before < BLOCKS * BLOCK_BYTES // 2
