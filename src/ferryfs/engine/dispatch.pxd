from libc.stdint cimport uint32_t

from ferryfs.engine.server cimport Request

cdef uint32_t serve(Request *request) noexcept nogil
cdef bint is_slow(const Request *request) noexcept nogil
