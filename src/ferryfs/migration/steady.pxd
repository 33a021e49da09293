# Names that can't have changed since they were looked at.
from libc.stdint cimport int64_t, uint32_t

from ferryfs.migration.live_slots cimport Slots


cdef void stamp_folders(const Slots *slots, uint32_t first, uint32_t last, int64_t newest) noexcept nogil
cdef void take_steady(const Slots *slots, uint32_t first, uint32_t last) noexcept nogil
cdef void unmark_missing(const Slots *slots, uint32_t first, uint32_t last) noexcept nogil
cdef void measure_files(const Slots *slots, uint32_t first, uint32_t last, bint all) noexcept nogil
