# Names that can't have changed since they were looked at.
from libc.stdint cimport int64_t, uint32_t

from ferryfs.engine.inodes cimport Inode, InodeTable
from ferryfs.migration.live_slots cimport Slots


cdef void stamp_folders(const Slots *slots, uint32_t first, uint32_t last, int64_t newest) noexcept nogil
cdef enum:
    # linux/magic.h: file systems whose directories tell every change.
    EXT4 = 0xef53
    XFS = 0x58465342
    BTRFS = 0x9123683e
    TMPFS = 0x01021994


cdef uint32_t kind_of_system(int fd) noexcept nogil
cdef int64_t changed_ns(InodeTable *table, Inode *folder) noexcept nogil
cdef void take_steady(const Slots *slots, uint32_t first, uint32_t last, bint marks) noexcept nogil
cdef void unmark(const Slots *slots, uint32_t first, uint32_t last, bint missing) noexcept nogil
cdef void measure_files(const Slots *slots, uint32_t first, uint32_t last, bint all) noexcept nogil
