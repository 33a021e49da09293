from ferryfs.engine.server cimport Request

cdef int op_getattr(Request *request) noexcept nogil
cdef int op_setattr(Request *request) noexcept nogil
cdef int op_statx(Request *request) noexcept nogil
cdef int op_statfs(Request *request) noexcept nogil
cdef int op_access(Request *request) noexcept nogil
