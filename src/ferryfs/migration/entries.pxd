# Names that need no look at the destination, as their directories are as they were at the source.
from libc.stdint cimport uint64_t

from ferryfs.engine.inodes cimport InodeTable
from ferryfs.migration.bulk cimport Records


cdef int see_entries(Records records, InodeTable *table, uint64_t first, uint64_t last) except -1 nogil
cdef uint64_t seen_entries(Records records, uint64_t first, uint64_t last) noexcept nogil
