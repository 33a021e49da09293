# Guest memory: the region table, translation by (address, length), the dirty log.
from libc.stdint cimport uint8_t, uint64_t

from ferryfs.ring.atomics cimport ferry_or_u8
from ferryfs.ring.view cimport View, view_prefix


cdef enum:
    # vhost-user's VHOST_USER_MAX_RAM_SLOTS in QEMU on x86 with CONFIGURE_MEM_SLOTS is 509, KVM's own limit.
    MAX_REGIONS = 509
    # The dirty log has one bit for each page of this size, whatever the guest's page size (vhost-user "Migration").
    LOG_PAGE_SHIFT = 12


cdef struct Region:
    View guest          # by guest physical address
    View user           # the same bytes by the front-end's virtual address
    void *mapping       # what is to be unmapped: the bytes and the guard pages around them
    uint64_t mapped     # bytes mapped there


# Changed only while no request is in flight and no ring runs (Device's pause), so that readers need no lock.
cdef struct MemoryTable:
    Region *regions     # sorted by guest address
    int count
    uint8_t *log        # NULL: no log given
    uint64_t log_size   # bytes
    int log_on          # VHOST_F_LOG_ALL


cdef inline uint8_t *memory_prefix(
    const MemoryTable *table, uint64_t address, uint64_t length, uint64_t *got
) noexcept nogil:
    """As much of guest [address, address + length) as lies in one region from its beginning; NULL when none does."""
    cdef int low = 0
    cdef int high = table.count - 1
    cdef int middle
    while low <= high:
        middle = (low + high) >> 1
        if address < table.regions[middle].guest.start:
            high = middle - 1
        elif address - table.regions[middle].guest.start >= table.regions[middle].guest.size:
            low = middle + 1
        else:
            return view_prefix(&table.regions[middle].guest, address, length, got)
    return NULL


cdef inline void memory_mark(const MemoryTable *table, uint64_t address, uint64_t length) noexcept nogil:
    """Marks guest [address, address + length) as written, when the log is on.

    Called after the bytes were written and before the guest is told, so that a page copied before the write is copied
    again. Pages beyond the log are the front-end's own omission: it sizes the log by the memory it gave.
    """
    cdef uint64_t page
    cdef uint64_t last
    if not table.log_on or table.log == NULL or length == 0:
        return
    page = address >> LOG_PAGE_SHIFT
    last = (address + length - 1) >> LOG_PAGE_SHIFT
    while page <= last and (page >> 3) < table.log_size:
        # SAFETY: page / 8 < log_size (the line above), and log is mapped for log_size bytes (GuestMemory.set_log).
        ferry_or_u8(table.log + (page >> 3), <uint8_t>(1 << (page & 7)))
        page += 1


cdef class GuestMemory:
    cdef MemoryTable table
    cdef void *log_mapping
    cdef uint64_t log_mapped

    cdef uint8_t *user_window(self, uint64_t address, uint64_t length) noexcept nogil
