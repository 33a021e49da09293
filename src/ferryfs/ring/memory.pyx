"""Guest memory: maps what the front-end shares, translates addresses, keeps the dirty log.

One owner for each mapping: GuestMemory. Nobody outside of ring/ sees a host address, and nothing keeps one over a
change of the table (the device pauses its rings around each).
"""

from libc.errno cimport errno
from libc.signal cimport SIGBUS, SIG_DFL
from libc.stdint cimport uint8_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memmove, memset
from posix.mman cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, PROT_NONE, PROT_READ, PROT_WRITE,
    mmap, munmap,
)
from posix.signal cimport SA_SIGINFO, sigaction_t, siginfo_t

import os
import stat

from ferryfs.errors import FrontendError
from ferryfs.ring.atomics cimport ferry_fence
from ferryfs.ring.view cimport View, view_at


cdef extern from "sys/mman.h" nogil:
    int madvise(void *addr, size_t length, int advice)
    int MADV_DONTDUMP

cdef extern from "sys/eventfd.h" nogil:
    int eventfd(unsigned int initval, int flags)
    int EFD_CLOEXEC, EFD_NONBLOCK

cdef extern from "unistd.h" nogil:
    ssize_t read(int fd, void *buffer, size_t count)
    ssize_t write(int fd, const void *buf, size_t count)

cdef extern from "signal.h" nogil:
    int sigaction "sigaction"(int signum, const sigaction_t *act, sigaction_t *oldact)


# Some facts about SIGBUS: a front-end that truncates the file behind guest memory makes each access beyond the new end
# raise SIGBUS in the thread that touched it; system calls get EFAULT instead. The handler puts an empty page there, so
# that the access ends, and raises an eventfd, for which the session ends the connection with a sentence.
# A SIGBUS anywhere else is a bug or bad memory: the default action is restored and the access faults again.

cdef enum:
    MAX_MAPPINGS = 2048     # of all devices of this process together: 4 full region tables
    PAGE = 4096
    BEYOND_SHIFT = 62       # an offset or a size from 2^62 on is nonsense; below it no sum of ours overflows
    HUGE = 2 << 20          # what the kernel maps with one entry where file offset and address allow it

cdef struct Block:
    void *start
    uint64_t size

cdef struct Mapping:
    uintptr_t start
    uintptr_t end           # 0: a free slot. Written last on adding, first on removal, for the handler's sake.

cdef Mapping guarded[MAX_MAPPINGS]
cdef int lost_fd = -1                   # eventfd: guest memory was lost; wakes whoever waits for that


cdef void on_sigbus(int number, siginfo_t *info, void *context) noexcept nogil:
    cdef uintptr_t address = <uintptr_t>info.si_addr
    cdef int i
    cdef int shift
    cdef uintptr_t page
    cdef uintptr_t base
    cdef uint64_t one = 1
    cdef sigaction_t default
    for i in range(MAX_MAPPINGS):
        if guarded[i].end != 0 and guarded[i].start <= address < guarded[i].end:
            # SAFETY: the page lies in a mapping of ours (the line above); nothing but guest memory is replaced. A
            # hugetlb mapping can only be replaced by whole huge pages, so the page sizes are tried in turn.
            for shift in range(12, 31, 9):
                page = <uintptr_t>1 << shift
                base = address & ~(page - 1)
                if base < guarded[i].start or page > guarded[i].end - base:
                    break
                if mmap(
                    <void *>base, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0
                ) != MAP_FAILED:
                    write(lost_fd, &one, sizeof(one))
                    return
            break
    memset(&default, 0, sizeof(default))
    default.sa_handler = SIG_DFL
    sigaction(SIGBUS, &default, NULL)


cdef int guard(void *start, uint64_t size) except -1:
    cdef int i
    for i in range(MAX_MAPPINGS):
        if guarded[i].end == 0:
            guarded[i].start = <uintptr_t>start
            ferry_fence()
            guarded[i].end = (<uintptr_t>start + size + PAGE - 1) & ~<uintptr_t>(PAGE - 1)
            return 0
    raise FrontendError(f"more than {MAX_MAPPINGS} memory regions are mapped at once; use fewer")


cdef void unguard(void *start) noexcept nogil:
    cdef int i
    for i in range(MAX_MAPPINGS):
        if guarded[i].end != 0 and guarded[i].start == <uintptr_t>start:
            guarded[i].end = 0
            ferry_fence()
            return


def install_sigbus_handler() -> int:
    """Makes a truncated guest memory file an event (memory_was_lost) instead of the daemon's death.

    Returns an eventfd, the process's own and never to be closed, that is readable from then on; called again, the same one.
    """
    global lost_fd
    cdef sigaction_t action
    if lost_fd >= 0:
        return lost_fd
    lost_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    if lost_fd < 0:
        raise OSError(errno, "eventfd")
    memset(&action, 0, sizeof(action))
    action.sa_sigaction = on_sigbus
    action.sa_flags = SA_SIGINFO
    if sigaction(SIGBUS, &action, NULL) != 0:
        raise OSError(errno, "sigaction(SIGBUS)")
    return lost_fd


def memory_was_lost() -> bool:
    """Whether an access to guest memory met a hole since the last call: the front-end took its memory away."""
    # The eventfd alone says so: with a flag beside it, 1. one thread raises both, 2. another raises the eventfd, 3. we
    # take both back, 4. the other raises its flag, and that has no event any more.
    cdef uint64_t count = 0
    return lost_fd >= 0 and read(lost_fd, &count, sizeof(count)) == sizeof(count)


cdef object check_file(int fd, uint64_t offset, uint64_t size, str what):
    """Refuses a regular file that is shorter than what shall be mapped; devices and such can't say."""
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and (offset > <uint64_t>status.st_size or size > <uint64_t>status.st_size - offset):
        raise FrontendError(
            f"{what}: the file behind it has {status.st_size} bytes, but {size} at offset {offset} shall be mapped"
        )


cdef uint64_t page_size(int fd) except 0:
    """What a mapping of the file comes in, in bytes: on hugetlbfs its huge page size, and no less is taken."""
    cdef uint64_t size = os.fstatvfs(fd).f_bsize if stat.S_ISREG(os.fstat(fd).st_mode) else PAGE
    return size if size > PAGE and size & (size - 1) == 0 else PAGE


cdef void *map_guarded(int fd, uint64_t offset, uint64_t size, uint64_t page, Block *block) noexcept nogil:
    """Maps `size` bytes of the file from `offset` between two pages that nobody may touch; NULL with errno on failure.

    `offset` and `size` are multiples of `page` below 2^63. `block` becomes what is to be unmapped
    later. A mistake of ours that steps over the edge of guest memory ends there, and not in whatever lies beside it.
    """
    cdef uint64_t align = HUGE if size >= HUGE and page < HUGE else page
    cdef uint64_t total = size + 2 * page + align
    cdef uintptr_t inner
    cdef void *mapping
    mapping = mmap(NULL, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if mapping == MAP_FAILED:
        return NULL
    block.start = mapping
    block.size = total
    # The first address behind the guard that lies in its huge page as the offset lies in the file's.
    inner = <uintptr_t>mapping + page
    inner += (offset - inner) & (align - 1)
    # SAFETY: inner is at most align - 1 behind the guard, so size bytes and a page fit behind it; all ours.
    if mmap(
        <void *>inner, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, <long>offset
    ) == MAP_FAILED:
        munmap(mapping, total)
        return NULL
    madvise(<void *>inner, size, MADV_DONTDUMP)
    return <void *>inner


cdef class GuestMemory:
    """A front-end's regions and its dirty log. Not thread safe: the owner pauses all readers around a change."""

    def __cinit__(self):
        memset(&self.table, 0, sizeof(self.table))
        self.log_mapping = NULL
        self.log_mapped = 0
        self.table.regions = <Region *>calloc(MAX_REGIONS, sizeof(Region))
        if self.table.regions == NULL:
            raise MemoryError

    def __dealloc__(self):
        self._clear_log()
        if self.table.regions != NULL:
            self._clear()
            free(self.table.regions)

    def close(self):
        """Unmaps everything; idempotent."""
        self._clear_log()
        self._clear()

    def set_table(self, regions):
        """Replaces the whole table: `regions` as in Device.set_mem_table. On an error the table is empty."""
        self._clear()
        try:
            for region in regions:
                self.add(*region)
        except BaseException:
            self._clear()
            raise

    def add(self, uint64_t guest_addr, uint64_t size, uint64_t user_addr, uint64_t mmap_offset, int fd):
        """Maps one region: `size` bytes of the file from `mmap_offset`. All addresses and sizes in bytes.

        Raises FrontendError for an empty, overlapping or overflowing region, a file that is too short, a full table,
        and memory that can't be mapped shared.
        """
        cdef Region *regions = self.table.regions
        cdef uint64_t page
        cdef uint64_t lead
        cdef void *mapping
        cdef Block block
        cdef int place
        name = f"memory region at guest address {guest_addr:#x}"
        if size == 0:
            raise FrontendError(f"{name} is empty")
        if (
            guest_addr + size < guest_addr or user_addr + size < user_addr
            or size >> BEYOND_SHIFT or mmap_offset >> BEYOND_SHIFT
        ):
            raise FrontendError(f"{name}: its {size} bytes reach beyond the address space")
        if self.table.count >= MAX_REGIONS:
            raise FrontendError(f"{name} is one more than the {MAX_REGIONS} that are offered")
        place = 0
        while place < self.table.count and regions[place].guest.start < guest_addr:
            place += 1
        if place > 0 and guest_addr - regions[place - 1].guest.start < regions[place - 1].guest.size:
            raise FrontendError(f"{name} overlaps the one at {regions[place - 1].guest.start:#x}")
        if place < self.table.count and regions[place].guest.start - guest_addr < size:
            raise FrontendError(f"{name} overlaps the one at {regions[place].guest.start:#x}")
        check_file(fd, mmap_offset, size, name)
        page = page_size(fd)
        lead = mmap_offset & (page - 1)
        mapping = map_guarded(fd, mmap_offset - lead, (size + lead + page - 1) & ~(page - 1), page, &block)
        if mapping == NULL:
            raise FrontendError(
                f"{name} can't be mapped ({os.strerror(errno)}): guest memory must be shared; with QEMU: "
                "-object memory-backend-memfd,id=mem,size=SIZE,share=on -numa node,memdev=mem"
            )
        try:
            guard(block.start, block.size)
        except BaseException:
            munmap(block.start, block.size)
            raise
        memmove(&regions[place + 1], &regions[place], <size_t>(self.table.count - place) * sizeof(Region))
        # SAFETY: mapping has size + lead bytes, so base has size bytes behind it.
        regions[place].guest.base = <uint8_t *>mapping + lead
        regions[place].guest.start = guest_addr
        regions[place].guest.size = size
        regions[place].user = regions[place].guest
        regions[place].user.start = user_addr
        regions[place].mapping = block.start
        regions[place].mapped = block.size
        self.table.count += 1

    def remove(self, uint64_t guest_addr, uint64_t size, uint64_t user_addr):
        """Unmaps the region with exactly these values (REM_MEM_REG); FrontendError when there is none."""
        cdef Region *region
        cdef int i
        for i in range(self.table.count):
            region = &self.table.regions[i]
            if region.guest.start == guest_addr and region.guest.size == size and region.user.start == user_addr:
                unguard(region.mapping)
                munmap(region.mapping, region.mapped)
                memmove(region, region + 1, <size_t>(self.table.count - i - 1) * sizeof(Region))
                self.table.count -= 1
                return
        raise FrontendError(f"REM_MEM_REG: there is no memory region of {size} bytes at guest address {guest_addr:#x}")

    def set_log(self, int fd, uint64_t offset, uint64_t size):
        """Maps the dirty log: `size` bytes of the file from `offset`, a bit for each 4 KiB of guest memory."""
        cdef uint64_t page
        cdef uint64_t lead
        cdef void *mapping
        cdef Block block
        if size == 0 or size >> BEYOND_SHIFT or offset >> BEYOND_SHIFT:
            raise FrontendError(f"SET_LOG_BASE: a log of {size} bytes at offset {offset} can't be")
        check_file(fd, offset, size, "dirty log")
        page = page_size(fd)
        lead = offset & (page - 1)
        mapping = map_guarded(fd, offset - lead, (size + lead + page - 1) & ~(page - 1), page, &block)
        if mapping == NULL:
            raise FrontendError(f"SET_LOG_BASE: the dirty log can't be mapped: {os.strerror(errno)}")
        try:
            guard(block.start, block.size)
        except BaseException:
            munmap(block.start, block.size)
            raise
        self._clear_log()
        self.log_mapping = block.start
        self.log_mapped = block.size
        self.table.log = <uint8_t *>mapping + lead
        self.table.log_size = size

    def set_log_on(self, bint on):
        """VHOST_F_LOG_ALL: whether writes to guest memory are marked."""
        self.table.log_on = on

    def __len__(self):
        return self.table.count

    def regions(self):
        """(guest address, size, front-end address) of each region, for logs and tests."""
        cdef int i
        return [
            (self.table.regions[i].guest.start, self.table.regions[i].guest.size, self.table.regions[i].user.start)
            for i in range(self.table.count)
        ]

    cdef uint8_t *user_window(self, uint64_t address, uint64_t length) noexcept nogil:
        """The host address of [address, address + length) by the front-end's addresses (rings), or NULL."""
        cdef int i
        cdef View *view
        for i in range(self.table.count):
            view = &self.table.regions[i].user
            if view_at(view, address, length) != NULL:
                # SAFETY: view_at has checked address and length against the view.
                return view_at(view, address, length)
        return NULL

    def _clear(self):
        cdef int i
        for i in range(self.table.count):
            unguard(self.table.regions[i].mapping)
            munmap(self.table.regions[i].mapping, self.table.regions[i].mapped)
        self.table.count = 0

    def _clear_log(self):
        self.table.log = NULL
        self.table.log_size = 0
        if self.log_mapping != NULL:
            unguard(self.log_mapping)
            munmap(self.log_mapping, self.log_mapped)
            self.log_mapping = NULL
