from ferryfs.engine.server cimport Request

cdef int op_setxattr(Request *request) noexcept nogil
cdef int op_getxattr(Request *request) noexcept nogil
cdef int op_listxattr(Request *request) noexcept nogil
cdef int op_removexattr(Request *request) noexcept nogil
