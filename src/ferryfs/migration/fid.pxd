# A file handle that is good for comparing only (AT_HANDLE_FID, Linux 6.5): for file systems whose handles nobody can open, as
# overlayfs without nfs_export.
from libc.stdint cimport uint8_t, uint32_t

from ferryfs.engine.sys cimport AT_EMPTY_PATH, AT_HANDLE_FID, MAX_HANDLE_SIZE, SYS_name_to_handle_at, file_handle, syscall


cdef struct FidBuffer:
    file_handle head
    uint8_t bytes[MAX_HANDLE_SIZE]


cdef inline uint32_t fid_of(int fd, FidBuffer *buffer) noexcept nogil:
    """How many bytes the one of an open file has; 0 when there is none."""
    cdef int mount = 0
    buffer.head.handle_bytes = MAX_HANDLE_SIZE
    buffer.head.handle_type = 0
    if syscall(SYS_name_to_handle_at, fd, b"", buffer, &mount, AT_EMPTY_PATH | AT_HANDLE_FID) < 0:
        return 0
    return buffer.head.handle_bytes if buffer.head.handle_bytes <= MAX_HANDLE_SIZE else 0
