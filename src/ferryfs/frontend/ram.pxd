"""Guest memory, for the other compiled modules of the front-end."""

from libc.stdint cimport uint8_t, uint64_t

cdef class GuestRam:
    cdef list _regions
    cdef list _low
    cdef list _high
    cdef readonly bint closed
    # SAFETY: the only way to a host address: the window is checked against one region, and the mapping lives as long as
    # this object is not closed; callers hold a reference to it for as long as they hold the pointer.
    cdef uint8_t *window(self, uint64_t gpa, uint64_t length) except NULL
