# The fds of inodes: kept ones, cached ones, and those opened for a moment. The guest's share of the process's fds.
from ferryfs.engine.inodes cimport Inode, InodeTable
from ferryfs.engine.sys cimport file_handle
from ferryfs.ring.atomics cimport ferry_load_int


cdef enum:
    FD_TABLE_SIZE = 4096        # of the process, from the beginning: CLOCK_SIZE_MAX cached ones, the daemon's own, 2,000 open files


cdef int inode_fd(InodeTable *table, Inode *inode) noexcept nogil
cdef int inode_open(InodeTable *table, Inode *inode, int flags) noexcept nogil
cdef int inode_borrow(InodeTable *table, Inode *inode) noexcept nogil
cdef int inode_return(InodeTable *table, Inode *inode, int fd) noexcept nogil
cdef void inode_keep_fd(InodeTable *table, Inode *inode) noexcept nogil
cdef int open_by_handle(int mount_fd, file_handle *handle, int flags) noexcept nogil
cdef int open_handle(InodeTable *table, const Inode *inode, int flags) noexcept nogil
cdef int open_proc(const InodeTable *table, int fd, int flags) noexcept nogil
cdef int fds_reserve(InodeTable *table) noexcept nogil
cdef void fds_release(InodeTable *table) noexcept nogil
cdef void fds_make_room(int fd, long limit) noexcept nogil
cdef int fds_shrink(InodeTable *table) noexcept nogil

# Under the lock.
cdef int cache_fd(InodeTable *table, Inode *inode, int fd) noexcept nogil


cdef inline bint fds_have_room(const InodeTable *table) noexcept nogil:
    """Whether one more cached fd would take no other inode's. A look without the lock: a hint."""
    return ferry_load_int(<const int *>&table.clock[ferry_load_int(<const int *>&table.clock_hand)]) == 0
