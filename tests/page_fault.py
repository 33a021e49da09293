"""A page of guest memory that a device in this process finds only when it is given: userfaultfd(2)."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

from ferryfs.frontend.ram import GuestRam

PAGE = 4096
TIMEOUT_MS = 20_000
SYS_USERFAULTFD = {"x86_64": 323, "aarch64": 282}[os.uname().machine]
# include/uapi/linux/userfaultfd.h
UFFDIO_API, UFFDIO_REGISTER, UFFDIO_UNREGISTER, UFFDIO_CONTINUE = 0xC018AA3F, 0xC020AA00, 0x8010AA01, 0xC020AA07
API, FEATURE_MINOR_SHMEM, MODE_MINOR = 0xAA, 1 << 10, 1 << 2
MADV_DONTNEED = 4

_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class AwayPage:
    """The first page of a region: it keeps its content, and who touches the device's mapping of it waits."""

    def __init__(self, ram: GuestRam, region: int) -> None:
        self._at = device_mapping(ram, region)
        self._fd = _libc.syscall(SYS_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "userfaultfd")
        fcntl.ioctl(self._fd, UFFDIO_API, struct.pack("=QQQ", API, FEATURE_MINOR_SHMEM, 0))
        fcntl.ioctl(self._fd, UFFDIO_REGISTER, struct.pack("=QQQQ", self._at, PAGE, MODE_MINOR, 0))
        if _libc.madvise(self._at, PAGE, MADV_DONTNEED):
            raise OSError(ctypes.get_errno(), "madvise")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # Whoever waits goes on.
        fcntl.ioctl(self._fd, UFFDIO_UNREGISTER, struct.pack("=QQ", self._at, PAGE))
        os.close(self._fd)

    def wait(self) -> None:
        """Comes back when somebody waits for the page."""
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        assert poller.poll(TIMEOUT_MS), "nobody has touched the page"

    def give(self) -> None:
        """Lets whoever waits go on."""
        fcntl.ioctl(self._fd, UFFDIO_CONTINUE, struct.pack("=QQQq", self._at, PAGE, 0, 0))


def device_mapping(ram: GuestRam, region: int) -> int:
    """Where the device has mapped a region; the driver's own mapping of the same memory is another one."""
    gpa, _size, own, _offset, fd = ram.regions[region]
    assert own == ram.user_addr(gpa)
    inode = str(os.fstat(fd).st_ino)
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    starts = [int(line[0].partition("-")[0], 16) for line in lines if line[4] == inode]
    (found,) = (start for start in starts if start != own)
    return found
