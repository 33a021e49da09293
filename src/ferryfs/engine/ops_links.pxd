from ferryfs.engine.server cimport Request

cdef int op_link(Request *request) noexcept nogil
cdef int op_unlink(Request *request) noexcept nogil
cdef int op_rmdir(Request *request) noexcept nogil
cdef int op_rename(Request *request) noexcept nogil
cdef int op_rename2(Request *request) noexcept nogil
cdef int op_readlink(Request *request) noexcept nogil
