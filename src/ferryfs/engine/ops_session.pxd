from libc.stdint cimport uint64_t

from ferryfs.engine.server cimport Request, Server

cdef int op_init(Request *request) noexcept nogil
cdef int op_destroy(Request *request) noexcept nogil
cdef void session_end(Server *server) noexcept nogil
cdef uint64_t wanted(const Server *server) noexcept nogil
