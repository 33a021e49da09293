"""Guest memory of a front-end without a machine: memfds that a back-end can map, and our own checked way into them."""

import os

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy
from posix.mman cimport (
    MAP_ANONYMOUS,
    MAP_FAILED,
    MAP_FIXED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
    munmap,
)
from posix.mman cimport mmap as c_mmap
from posix.types cimport off_t

from ferryfs.ring.atomics cimport ferry_load_acquire_u16, ferry_store_release_u16

from ferryfs.errors import SetupError

cdef enum:
    PAGE = 4096


cdef class Region:
    """One region of guest memory: a memfd, and our mapping of it between two guard pages."""

    cdef readonly int fd
    cdef readonly uint64_t gpa
    cdef readonly uint64_t size
    cdef readonly uint64_t mmap_offset
    cdef uint8_t *base
    cdef void *outer
    cdef size_t outer_size

    def __cinit__(self):
        self.fd = -1
        self.base = NULL
        self.outer = NULL

    def __init__(self, uint64_t gpa, uint64_t size, uint64_t mmap_offset=0):
        if size == 0 or size % PAGE or mmap_offset % PAGE:
            raise ValueError("a region is whole pages")
        self.fd = os.memfd_create("ferryfs-guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, mmap_offset + size)
        self.gpa = gpa
        self.size = size
        self.mmap_offset = mmap_offset
        # An inaccessible page on either side: a driver (or a core under test in this process) that strays out of the
        # region is stopped at once instead of writing into whatever the kernel put next to it.
        self.outer_size = size + 2 * PAGE
        self.outer = c_mmap(NULL, self.outer_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if self.outer == MAP_FAILED:
            self.outer = NULL
            raise SetupError(f"No address space for {size} bytes of guest memory: {os.strerror(errno)}.")
        self.base = <uint8_t *>self.outer + PAGE
        access = PROT_READ | PROT_WRITE
        if c_mmap(self.base, size, access, MAP_SHARED | MAP_FIXED, self.fd, <off_t>mmap_offset) == MAP_FAILED:
            raise SetupError(f"Guest memory of {size} bytes can't be mapped: {os.strerror(errno)}.")

    def close(self):
        if self.outer != NULL:
            munmap(self.outer, self.outer_size)
            self.outer = NULL
            self.base = NULL
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @property
    def user_addr(self):
        """Address of our mapping: the front-end's address space in the sense of the vhost-user specification."""
        return <uint64_t>self.base

    def __dealloc__(self):
        if self.outer != NULL:
            munmap(self.outer, self.outer_size)


cdef class GuestRam:
    """Guest memory: one memfd and one mapping a region, sparse until touched.

    ``sizes`` are the regions' bytes (whole pages); region 0 begins at guest address ``base``, each other one ``gap``
    bytes behind the end of the one before. Space inside is handed out by ``alloc``; ``rewind`` takes it back.
    """

    def __init__(self, sizes, *, uint64_t base=0x100000, uint64_t gap=0x100000, uint64_t mmap_offset=0):
        cdef uint64_t gpa = base
        self._regions = []
        self._low = []
        self._high = []
        self.closed = False
        for size in sizes:
            self._regions.append(Region(gpa, size, mmap_offset))
            self._low.append(gpa)
            self._high.append(gpa + size)
            gpa += size + gap

    cdef uint8_t *window(self, uint64_t gpa, uint64_t length) except NULL:
        cdef Region region
        for region in self._regions:
            if gpa >= region.gpa and length <= region.size and gpa - region.gpa <= region.size - length:
                if region.base == NULL:
                    break
                return region.base + (gpa - region.gpa)
        raise ValueError(f"no guest memory at {gpa:#x}+{length:#x}")

    @property
    def regions(self):
        """``(guest_addr, size, user_addr, mmap_offset, fd)`` of each region, in the order of SET_MEM_TABLE's fields."""
        return [(r.gpa, r.size, r.user_addr, r.mmap_offset, r.fd) for r in self._regions]

    def user_addr(self, uint64_t gpa):
        """The front-end's own address of a guest address, as SET_VRING_ADDR wants it."""
        return <uint64_t>self.window(gpa, 0)

    def alloc(self, uint64_t size, *, uint64_t align=16, int region=0, bint at_end=False):
        """Guest address of ``size`` bytes not yet given out, from the start of a region or flush with its end."""
        cdef uint64_t low = self._low[region]
        cdef uint64_t high = self._high[region]
        cdef uint64_t at
        if align == 0 or align & (align - 1):
            raise ValueError("an alignment is a power of two")
        if at_end:
            at = (high - size) & ~(align - 1)
            if size > high - low or at < low:
                raise ValueError(f"region {region} has no room for {size} bytes")
            self._high[region] = at
            return at
        at = (low + align - 1) & ~(align - 1)
        if at > high or size > high - at:
            raise ValueError(f"region {region} has no room for {size} bytes")
        self._low[region] = at + size
        return at

    def mark(self):
        """What is given out so far, for ``rewind``."""
        return list(self._low), list(self._high)

    def rewind(self, mark):
        """Takes back everything given out since ``mark``; nothing in there may be in use."""
        self._low, self._high = list(mark[0]), list(mark[1])

    def read(self, uint64_t gpa, uint64_t length):
        cdef uint8_t *at = self.window(gpa, length)
        return PyBytes_FromStringAndSize(<char *>at, <Py_ssize_t>length)

    def write(self, uint64_t gpa, data):
        cdef const uint8_t[::1] source = data
        cdef uint8_t *at = self.window(gpa, <uint64_t>source.shape[0])
        if source.shape[0]:
            memcpy(at, &source[0], <size_t>source.shape[0])

    def read16(self, uint64_t gpa):
        return ferry_load_acquire_u16(<uint16_t *>self.window(gpa, 2))

    def write16(self, uint64_t gpa, uint16_t value):
        ferry_store_release_u16(<uint16_t *>self.window(gpa, 2), value)

    def close(self):
        """Unmaps everything; queues on this memory must not be used any more. Idempotent."""
        self.closed = True
        for region in self._regions:
            region.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
