"""How an inode becomes an fd.

An inode is held by its file handle where the mount and our privileges allow, else by an O_PATH fd that it keeps. Handles are
turned into fds when needed, and a bounded cache of these fds (a clock) makes that rare.
"""

from libc.errno cimport EBADF, EMFILE, ENFILE, ENOMEM, ESTALE, errno
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from ferryfs.engine.identity cimport HandleBuffer
from ferryfs.engine.inodes cimport (
    INODE_HOLLOW, INODE_INVALID, INODE_KEEPS_FD, INODE_READABLE, INODE_RECENT, INODE_UNPROVEN, KIND_SHIFT, Inode, InodeTable,
    find_slot, inode_handle, slot_at,
)
from ferryfs.engine.sys cimport (
    F_DUPFD_CLOEXEC, O_CLOEXEC, O_NOFOLLOW, O_PATH, S_IFDIR, S_IFREG, close, fcntl, file_handle, open_by_handle_at, openat, snprintf,
)
from ferryfs.engine.threads cimport pthread_mutex_lock, pthread_mutex_unlock, sched_yield


# Of open_by_handle_at while it answers ENOMEM; a millisecond or so.
cdef enum:
    HANDLE_TRIES = 1000


cdef int open_proc(const InodeTable *table, int fd, int flags) noexcept nogil:
    """Opens anew what `fd` is, through /proc/self/fd: an fd or -errno."""
    cdef char path[16]
    cdef int opened
    snprintf(path, sizeof(path), "%d", fd)
    opened = openat(table.proc_fd, path, (flags & ~O_NOFOLLOW) | O_CLOEXEC)
    return opened if opened >= 0 else -errno


cdef int open_by_handle(int mount_fd, file_handle *handle, int flags) noexcept nogil:
    """open_by_handle_at(2), with O_CLOEXEC: an fd or -errno.

    It tries again after ENOMEM. ext4 says so, and not ESTALE, of a file that is gone while a new one is being made of the same
    inode number:
    1. somebody holds the handle of file A, inode number 12, and A is removed;
    2. another process creates B: inode 12 is taken and in the kernel's table, but not ready;
    3. the handle is opened: the table's look-up finds an inode under construction and gives none, "no memory" to ext4;
    4. B is ready, its generation another one: from now on the handle is stale, as it was before 2.
    """
    cdef int _tries
    cdef int fd = -1
    for _tries in range(HANDLE_TRIES):
        fd = open_by_handle_at(mount_fd, handle, flags | O_CLOEXEC)
        if fd >= 0:
            return fd
        fd = -errno
        if fd != -ENOMEM:
            break
        sched_yield()
    return fd


cdef int open_handle(InodeTable *table, const Inode *inode, int flags) noexcept nogil:
    cdef HandleBuffer buffer
    cdef int fd
    buffer.head.handle_bytes = inode.handle_size
    buffer.head.handle_type = inode.handle_type
    memcpy(buffer.bytes, inode_handle(inode), inode.handle_size)
    fd = open_by_handle(table.mounts[inode.mount].fd, &buffer.head, flags)
    if (fd == -EMFILE or fd == -ENFILE) and fds_shrink(table) > 0:
        fd = open_by_handle(table.mounts[inode.mount].fd, &buffer.head, flags)
    return fd


# ---- the cache -------------------------------------------------------------------------------------------------------------


cdef inline bint uses_fd(const Inode *inode) noexcept nogil:
    """Whether a request or an open file may be using the inode's cached fd just now."""
    return inode.pins > 0 or (inode.flags & INODE_READABLE and inode.opens > 0)


cdef int take_fd(Inode *inode) noexcept nogil:
    """Takes the cached fd from an inode that does not use it; the place in the clock is the caller's."""
    cdef int fd = inode.fd
    inode.fd = -1
    inode.clock = 0
    inode.flags &= <uint8_t>~INODE_READABLE
    return fd


cdef int cache_fd(InodeTable *table, Inode *inode, int fd) noexcept nogil:
    """Makes `fd` the cached one of `inode`. Returns an fd to close after the lock is given back, or -1."""
    cdef uint32_t _tries
    cdef uint32_t place
    cdef Inode *other
    cdef int evicted = -1
    for _tries in range(2 * table.clock_size):
        place = table.clock_hand
        table.clock_hand = (place + 1) % table.clock_size
        if table.clock[place] == 0:
            break
        other = slot_at(table, table.clock[place] - 1)
        if uses_fd(other):
            continue
        if other.flags & INODE_RECENT:
            other.flags &= <uint8_t>~INODE_RECENT
            continue
        evicted = take_fd(other)
        break
    else:
        # Every cached fd is in use just now: it stays this inode's until the clock finds it by chance, which it must not.
        return fd
    table.clock[place] = find_slot(table, inode.id) + 1
    inode.clock = place + 1
    inode.fd = fd
    inode.flags |= INODE_RECENT
    return evicted


cdef int fds_shrink(InodeTable *table) noexcept nogil:
    """Closes the cached fds that nobody uses just now; how many. For when the process runs out of fds."""
    cdef uint32_t i
    cdef Inode *inode
    cdef int fd
    cdef int closed = 0
    for i in range(table.clock_size):
        fd = -1
        pthread_mutex_lock(&table.lock)
        if table.clock[i] != 0:
            inode = slot_at(table, table.clock[i] - 1)
            if not uses_fd(inode):
                fd = take_fd(inode)
                table.clock[i] = 0
        pthread_mutex_unlock(&table.lock)
        if fd >= 0:
            close(fd)
            closed += 1
    return closed


# ---- the guest's share -----------------------------------------------------------------------------------------------------


cdef void fds_make_room(int fd, long limit) noexcept nogil:
    """Makes the process' table of fds large enough for a busy guest; `fd`: any. To be called before there are other threads.

    1. threads share the table, 2. one of them opens a file for which it has no place, 3. the kernel makes one twice as large, and
    waits for an RCU grace period (10 to 18 ms) before it lets go of the old one; whoever else wants an fd waits for that, too.
    """
    cdef int last = fcntl(fd, F_DUPFD_CLOEXEC, <int>((limit if limit < FD_TABLE_SIZE else FD_TABLE_SIZE) - 1))
    if last >= 0:
        close(last)


cdef int fds_reserve(InodeTable *table) noexcept nogil:
    """Counts one more fd that lasts (an open file, a kept O_PATH fd); 0, or -ENFILE when the guest has used its share up."""
    cdef int result = 0
    pthread_mutex_lock(&table.lock)
    if table.fds >= table.max_fds:
        result = -ENFILE
    else:
        table.fds += 1
    pthread_mutex_unlock(&table.lock)
    return result


cdef void fds_release(InodeTable *table) noexcept nogil:
    pthread_mutex_lock(&table.lock)
    table.fds -= 1
    pthread_mutex_unlock(&table.lock)


# ---- what requests use -----------------------------------------------------------------------------------------------------


cdef int inode_fd(InodeTable *table, Inode *inode) noexcept nogil:
    """An O_PATH fd of a pinned inode, good until it is unpinned and not to be closed; or -errno (ESTALE: it is gone)."""
    cdef int fd
    cdef int spare
    if inode.flags & INODE_INVALID:
        return -inode.error
    pthread_mutex_lock(&table.lock)
    fd = inode.fd
    inode.flags |= INODE_RECENT
    pthread_mutex_unlock(&table.lock)
    if fd >= 0:
        return fd
    spare = table.prove(table, inode) if inode.flags & INODE_UNPROVEN else open_handle(table, inode, O_PATH)
    if spare < 0:
        return spare
    pthread_mutex_lock(&table.lock)
    if inode.fd < 0:
        spare = cache_fd(table, inode, spare)
    fd = inode.fd
    pthread_mutex_unlock(&table.lock)
    if fd < 0:
        # The cache is full of fds in use: nobody would close this one.
        close(spare)
        return -EMFILE
    if spare >= 0:
        close(spare)
    return fd


cdef int inode_open(InodeTable *table, Inode *inode, int flags) noexcept nogil:
    """Opens a pinned regular file or directory for input and output: an fd of the caller's, or -errno.

    Special files are never opened, whatever the guest asks: a FIFO would block, a device would act.
    """
    cdef int fd
    if inode.flags & INODE_INVALID:
        return -inode.error
    if inode.flags & INODE_HOLLOW:
        return -ESTALE
    if inode.flags & INODE_UNPROVEN:
        fd = inode_fd(table, inode)
        if fd < 0:
            return fd
    if inode.kind != S_IFREG >> KIND_SHIFT and inode.kind != S_IFDIR >> KIND_SHIFT:
        return -EBADF
    if not inode.flags & INODE_KEEPS_FD:
        return open_handle(table, inode, flags & ~O_NOFOLLOW)
    fd = open_proc(table, inode.fd, flags)
    if (fd == -EMFILE or fd == -ENFILE) and fds_shrink(table) > 0:
        fd = open_proc(table, inode.fd, flags)
    return fd


cdef int inode_borrow(InodeTable *table, Inode *inode) noexcept nogil:
    """The fd that was left open for reading, for a pinned inode's one more open file (counted here); -1 when there is none to be had.

    It is lent to one open file at a time: flags and read-ahead are an fd's own.
    """
    cdef int fd = -1
    pthread_mutex_lock(&table.lock)
    if inode.flags & INODE_READABLE and inode.opens == 0:
        fd = inode.fd
        inode.opens = 1
        inode.flags |= INODE_RECENT
    pthread_mutex_unlock(&table.lock)
    return fd


cdef int inode_return(InodeTable *table, Inode *inode, int fd) noexcept nogil:
    """Leaves what an open file had for itself, opened for reading and nothing else, to the next one: what to close instead, or -1.

    It takes the place of the inode's cached fd, or of none while no other inode's has to go for it. The caller still counts as an
    open file.
    """
    cdef int other = fd
    pthread_mutex_lock(&table.lock)
    if inode.opens == 1 and inode.nlookup > 0 and table.mounts[inode.mount].keeps_open and not uses_fd(inode):
        if inode.clock:
            other = inode.fd
            inode.fd = fd
        elif inode.fd < 0 and fds_have_room(table):
            other = cache_fd(table, inode, fd)
        if inode.fd == fd:
            inode.flags |= INODE_READABLE
    pthread_mutex_unlock(&table.lock)
    return other


cdef void inode_keep_fd(InodeTable *table, Inode *inode) noexcept nogil:
    """Holds a pinned inode by the fd that inode_fd gave, until it is forgotten: it has lost its name, and maybe its last.

    Half of the fds at most go this way: the guest must always be able to open files.
    """
    pthread_mutex_lock(&table.lock)
    if inode.clock and table.fds < table.max_fds // 2:
        table.clock[inode.clock - 1] = 0
        inode.clock = 0
        inode.flags |= INODE_KEEPS_FD
        table.fds += 1
    pthread_mutex_unlock(&table.lock)
