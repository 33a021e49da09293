# The mounts on which the guest's inodes lie.
from libc.stdint cimport uint16_t, uint64_t

from ferryfs.engine.inodes cimport Identity, InodeTable


cdef int mount_of(InodeTable *table, const Identity *identity, int fd, uint16_t mode) noexcept nogil

cdef int mounts_sync(InodeTable *table) noexcept nogil

# Under the lock.
cdef int find_mount(const InodeTable *table, uint64_t id) noexcept nogil
cdef void unuse_mount(InodeTable *table, int index) noexcept nogil
