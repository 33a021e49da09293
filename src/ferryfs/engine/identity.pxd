# Telling one file of the host from every other. struct Identity and the facts about it are in inodes.pxd.
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from ferryfs.engine.inodes cimport Identity, Inode, InodeTable
from ferryfs.engine.sys cimport MAX_HANDLE_SIZE, file_handle


# struct file_handle with the bytes that belong behind it.
cdef struct HandleBuffer:
    file_handle head
    uint8_t bytes[MAX_HANDLE_SIZE]


# include/linux/exportfs.h: a handle of eight bytes, the inode's number and its generation (ext2 to ext4, xfs up to 32 bits, f2fs).
cdef enum:
    FILEID_INO32_GEN = 1
    INO32_GEN_SIZE = 8


cdef int identify(const InodeTable *table, int dir_fd, const char *name, int flags, Identity *identity) noexcept nogil
cdef int identify_stat(
    const InodeTable *table, int dir_fd, const char *name, int flags, Identity *identity, uint16_t *mode
) noexcept nogil
cdef uint32_t hash_identity(const Identity *identity, uint32_t mount) noexcept nogil
cdef bint is_same(const Inode *inode, const Identity *identity, uint32_t mount) noexcept nogil


cdef inline bint has_number(const Identity *identity) noexcept nogil:
    """Whether its file handle says the inode's number."""
    return identity.handle_type == FILEID_INO32_GEN and identity.handle_size == INO32_GEN_SIZE


cdef inline uint32_t number_in(const Identity *identity) noexcept nogil:
    """The inode's number as the handle says it, where it does (has_number)."""
    cdef uint32_t number = 0
    memcpy(&number, identity.handle, sizeof(number))
    return number
