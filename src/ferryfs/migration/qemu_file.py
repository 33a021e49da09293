"""Finding a virtio-fs state inside a QEMU migration file (``migrate file:…``, ``virsh save``).

Some facts about it. A migration file is guest memory and device sections one after the other, without an index;
walking it needs every device's own description. The state of a vhost-user-fs device is a subsection: a byte 5, the
length and text of its name "vhost-user-fs-backend", a version (32 bits, big-endian, 0), and then what QEMU read from
the daemon, in chunks: length (32 bits, big-endian) and bytes, until a length of 0. The section around it begins with
the device's name, as "0000:00:02.0/vhost-user-fs". So it is found by its name; guest memory may hold the same text, so
only what can be walked to its end and begins like a state is taken.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ferryfs.errors import StateError
from ferryfs.migration import codec
from ferryfs.migration.transfer import STREAM_LIMIT_BYTES

MAGIC: Final = b"QEVM"
LIBVIRT_MAGIC: Final = (b"LibvirtQemudSave", b"LibvirtQemudPart")
_SUBSECTION_NAME: Final = b"vhost-user-fs-backend"
_SUBSECTION: Final = bytes([5, len(_SUBSECTION_NAME)]) + _SUBSECTION_NAME + struct.pack(">I", 0)
_SECTION_NAME: Final = b"vhost-user-fs"
# How far before its subsection a device's section begins at most: its virtio state is some hundred bytes.
_SECTION_REACH_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class FoundState:
    """A state in a migration file."""

    # Where its first chunk begins, in bytes from the start of the file.
    offset: int
    # QEMU's name of the device; empty when it could not be found.
    device: str
    data: bytes


def is_migration_file(data: bytes | mmap.mmap) -> bool:
    """Whether it begins as a migration file of QEMU or a saved guest of libvirt begins."""
    return data[:4] == MAGIC or data[:16] in LIBVIRT_MAGIC


def states(data: bytes | mmap.mmap) -> list[FoundState]:
    """All virtio-fs states in a migration file, in order. Raises StateError when there is none."""
    found = []
    for at in _occurrences(data):
        start = at + len(_SUBSECTION)
        whole = _chunks(data, start)
        if whole is not None and _begins_like_a_state(whole):
            found.append(FoundState(start, _device(data, at), whole))
    if not found:
        raise StateError(
            "no state of a virtio-fs device is in this migration file: the guest had none, or the file is compressed "
            "or cut"
        )
    return found


def _occurrences(data: bytes | mmap.mmap) -> Iterator[int]:
    at = data.find(_SUBSECTION)
    while at >= 0:
        yield at
        at = data.find(_SUBSECTION, at + 1)


def _chunks(data: bytes | mmap.mmap, at: int) -> bytes | None:
    """The joined chunks from ``at``; None when they don't end properly."""
    joined = bytearray()
    while at + 4 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        at += 4
        if length == 0:
            return bytes(joined)
        if length > len(data) - at or len(joined) + length > STREAM_LIMIT_BYTES:
            return None
        joined += data[at : at + length]
        at += length
    return None


def _begins_like_a_state(data: bytes) -> bool:
    return data[:1] in (bytes([codec.VERSION_1]), bytes([codec.VERSION_2]))


def _device(data: bytes | mmap.mmap, before: int) -> str:
    """The name that the section has: text with its length before it, ending in "vhost-user-fs"."""
    at = data.rfind(_SECTION_NAME, max(0, before - _SECTION_REACH_BYTES), before)
    if at < 0:
        return ""
    end = at + len(_SECTION_NAME)
    for length in range(len(_SECTION_NAME), 256):
        start = end - length
        if start < 1:
            break
        name = data[start:end]
        if data[start - 1] == length and name.isascii() and name.decode("ascii").isprintable():
            return name.decode("ascii")
    return ""
