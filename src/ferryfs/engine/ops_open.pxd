from libc.stdint cimport uint8_t, uint32_t

from ferryfs.engine.inodes cimport Inode
from ferryfs.engine.server cimport Request, Server

cdef int host_flags(const Server *server, uint32_t guest_flags) noexcept nogil
cdef int kept_flags(uint32_t guest_flags, bint directory) noexcept nogil
cdef int reply_open(Request *request, Inode *inode, int fd, uint32_t guest_flags, uint8_t state) noexcept nogil
cdef int op_open(Request *request) noexcept nogil
cdef int op_opendir(Request *request) noexcept nogil
cdef int op_release(Request *request) noexcept nogil
cdef int op_flush(Request *request) noexcept nogil
