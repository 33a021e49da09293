from ferryfs.engine.server cimport Request

cdef int op_read(Request *request) noexcept nogil
cdef int op_write(Request *request) noexcept nogil
