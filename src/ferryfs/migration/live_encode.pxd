# The live tables as bytes of a state and columns of its trailer.
from libc.stdint cimport uint32_t

from ferryfs.migration.live_slots cimport Slots


cdef uint32_t *slots_in_order(const Slots *slots, uint32_t *count, bint all) except NULL
cdef object encode_slots(
    const Slots *slots, dict others, bint by_handle, set handle_mounts, bint with_handles, bint root_handle, bint trailed
)
cdef list identity_columns(const Slots *slots, list mounts, bint named, uint32_t at_once, set handleless)
