from ferryfs.engine.server cimport Request

cdef int op_mknod(Request *request) noexcept nogil
cdef int op_mkdir(Request *request) noexcept nogil
cdef int op_symlink(Request *request) noexcept nogil
cdef int op_create(Request *request) noexcept nogil
cdef int op_tmpfile(Request *request) noexcept nogil
