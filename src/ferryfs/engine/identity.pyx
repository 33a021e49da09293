"""Identities of host files: asked of the kernel, hashed, compared."""

from libc.errno cimport EOPNOTSUPP, EOVERFLOW, errno
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from ferryfs.engine.index cimport hash_u64
from ferryfs.engine.inodes cimport Identity, Inode, InodeTable, inode_handle
from ferryfs.engine.sys cimport (
    AT_HANDLE_MNT_ID_UNIQUE, AT_SYMLINK_NOFOLLOW, MAX_HANDLE_SIZE, STATX_BASIC_STATS, STATX_MNT_ID, STATX_MNT_ID_UNIQUE,
    SYS_name_to_handle_at, SYS_statx, Statx, makedev, syscall,
)


cdef int identify(const InodeTable *table, int dir_fd, const char *name, int flags, Identity *identity) noexcept nogil:
    """Mount id and file handle of `name` in dir_fd (or of dir_fd itself, with AT_EMPTY_PATH): 0 or -errno.

    handle_size is 0 where the file system makes no handles, and handle_type too: it counts in the hash. dev and ino are not filled
    (identify_stat does).
    """
    cdef HandleBuffer buffer
    cdef uint64_t unique = 0
    cdef int old = 0
    cdef long result
    buffer.head.handle_bytes = MAX_HANDLE_SIZE
    buffer.head.handle_type = 0
    if table.unique_mount_ids:
        result = syscall(SYS_name_to_handle_at, dir_fd, name, &buffer, &unique, flags | AT_HANDLE_MNT_ID_UNIQUE)
    else:
        result = syscall(SYS_name_to_handle_at, dir_fd, name, &buffer, &old, flags)
        unique = <uint64_t>old
    if result < 0:
        if errno != EOPNOTSUPP and errno != EOVERFLOW:
            return -errno
        identity.handle_type = 0
        identity.handle_size = 0
        return 0
    identity.mount_id = unique
    identity.handle_type = buffer.head.handle_type
    identity.handle_size = buffer.head.handle_bytes
    if identity.handle_size > MAX_HANDLE_SIZE:
        identity.handle_type = 0
        identity.handle_size = 0
        return 0
    memcpy(identity.handle, buffer.bytes, identity.handle_size)
    return 0


cdef int identify_stat(
    const InodeTable *table, int dir_fd, const char *name, int flags, Identity *identity, uint16_t *mode
) noexcept nogil:
    """What statx adds to an identity: device, number and, where there is no handle, the mount id; 0 or -errno."""
    cdef Statx st
    cdef unsigned int mask = STATX_BASIC_STATS | (STATX_MNT_ID_UNIQUE if table.unique_mount_ids else STATX_MNT_ID)
    if syscall(SYS_statx, dir_fd, name, flags | AT_SYMLINK_NOFOLLOW, mask, &st) < 0:
        return -errno
    identity.dev = makedev(st.dev_major, st.dev_minor)
    identity.ino = st.ino
    mode[0] = st.mode
    if identity.handle_size == 0:
        identity.mount_id = st.mnt_id
    return 0


cdef uint32_t hash_identity(const Identity *identity, uint32_t mount) noexcept nogil:
    cdef uint64_t value = (<uint64_t>mount << 32) ^ <uint32_t>identity.handle_type
    cdef uint64_t part
    cdef uint32_t i = 0
    if identity.handle_size == 0:
        return hash_u64(hash_u64(identity.ino) ^ (<uint64_t>hash_u64(identity.dev) << 32) ^ value)
    while i < identity.handle_size:
        part = 0
        memcpy(&part, identity.handle + i, identity.handle_size - i if identity.handle_size - i < 8 else 8)
        value = (value ^ part) * <uint64_t>0xff51afd7ed558ccd
        value ^= value >> 29
        i += 8
    return hash_u64(value)


cdef bint is_same(const Inode *inode, const Identity *identity, uint32_t mount) noexcept nogil:
    if inode.mount != mount or inode.handle_size != identity.handle_size:
        return False
    if identity.handle_size == 0:
        return inode.ino == identity.ino and inode.dev == identity.dev
    return (
        inode.handle_type == identity.handle_type
        and memcmp(inode_handle(inode), identity.handle, identity.handle_size) == 0
    )
