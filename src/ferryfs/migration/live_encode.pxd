# The live tables as bytes of a state.
from libc.stdint cimport uint8_t, uint32_t

from ferryfs.engine.handles cimport HandleTable
from ferryfs.migration.growing cimport Bytes
from ferryfs.migration.live_slots cimport Slots


cdef class InodePieces:
    cdef object owner
    cdef Slots slots
    cdef dict others
    cdef bint with_handles
    cdef bint root_handle
    cdef uint8_t *handled_mounts    # by index of the mount
    cdef uint32_t *order
    cdef uint32_t count
    cdef uint32_t at                # in `order`
    cdef Bytes out

    cdef int _fill_with_others(self) except -1
    cdef int _put_one(self, uint32_t slot, const char *location, size_t location_length) except -1 nogil


cdef uint32_t *slots_in_order(const Slots *slots, uint32_t *count, bint all) except NULL
cdef InodePieces encode_slots(
    object owner, const Slots *slots, dict others, bint by_handle, set handle_mounts, bint with_handles, bint root_handle,
    bint trailed
)
cdef object encode_files(HandleTable *handles, int without)
