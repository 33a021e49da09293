# Telling one file of the host from every other. struct Identity and the facts about it are in inodes.pxd.
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from ferryfs.engine.inodes cimport Identity, Inode, InodeTable
from ferryfs.engine.sys cimport MAX_HANDLE_SIZE, file_handle


# struct file_handle with the bytes that belong behind it.
cdef struct HandleBuffer:
    file_handle head
    uint8_t bytes[MAX_HANDLE_SIZE]


cdef int identify(const InodeTable *table, int dir_fd, const char *name, int flags, Identity *identity) noexcept nogil
cdef int identify_stat(
    const InodeTable *table, int dir_fd, const char *name, int flags, Identity *identity, uint16_t *mode
) noexcept nogil
cdef uint32_t hash_identity(const Identity *identity, uint32_t mount) noexcept nogil
cdef bint is_same(const Inode *inode, const Identity *identity, uint32_t mount) noexcept nogil
