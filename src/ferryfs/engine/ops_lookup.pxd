from ferryfs.engine.server cimport Request

cdef int op_lookup(Request *request) noexcept nogil
cdef int op_forget(Request *request) noexcept nogil
cdef int op_batch_forget(Request *request) noexcept nogil
