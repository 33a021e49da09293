from ferryfs.engine.server cimport Request

cdef int op_fsync(Request *request) noexcept nogil
cdef int op_fallocate(Request *request) noexcept nogil
cdef int op_lseek(Request *request) noexcept nogil
cdef int op_copy_file_range(Request *request) noexcept nogil
cdef int op_syncfs(Request *request) noexcept nogil
cdef int op_ioctl(Request *request) noexcept nogil
