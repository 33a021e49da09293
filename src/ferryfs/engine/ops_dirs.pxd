from ferryfs.engine.server cimport Request

cdef int op_readdir(Request *request) noexcept nogil
cdef int op_readdirplus(Request *request) noexcept nogil
