# Whether inodes are where they were last seen.
from libc.stdint cimport uint32_t

from ferryfs.migration.live_slots cimport Slots


# Sets the status of a slot: the hint may be of any age, so the name in the parent must be this very inode now.
cdef void check_slot(const Slots *slots, uint32_t slot) noexcept nogil
