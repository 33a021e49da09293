"""The mounts on which the guest's inodes lie, each with an fd by which its file handles can be opened, where they can be."""

from libc.errno cimport ENFILE
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ferryfs.engine.identity cimport HandleBuffer
from ferryfs.engine.inode_fds cimport open_by_handle, open_proc
from ferryfs.engine.inodes cimport MAX_MOUNTS, Identity, InodeTable, Mount
from ferryfs.engine.sys cimport (
    O_DIRECTORY, O_NONBLOCK, O_PATH, O_RDONLY, S_IFDIR, S_IFMT, S_IFREG, close, fstatfs, statfs_t,
)
from ferryfs.engine.threads cimport pthread_mutex_lock, pthread_mutex_unlock


cdef enum:                      # magic numbers of statfs(2)
    EXT_MAGIC = 0xef53
    XFS_MAGIC = 0x58465342
    BTRFS_MAGIC = 0x9123683e
    F2FS_MAGIC = 0xf2f52010
    TMPFS_MAGIC = 0x01021994


cdef bint keeps_open(int fd) noexcept nogil:
    """Whether an fd that stays open reads what one that is opened anew would. Network file systems look again at each open, and
    an overlay's fd from before a file's first change goes on reading the lower one.
    """
    cdef statfs_t st
    if fstatfs(fd, &st) < 0:
        return False
    return (
        st.f_type == EXT_MAGIC or st.f_type == XFS_MAGIC or st.f_type == BTRFS_MAGIC or st.f_type == F2FS_MAGIC
        or st.f_type == TMPFS_MAGIC
    )


cdef int find_mount(const InodeTable *table, uint64_t id) noexcept nogil:
    cdef uint32_t i
    for i in range(table.mount_count):
        if table.mounts[i].id == id and (i == 0 or table.mounts[i].inodes > 0):
            return <int>i
    return -1


cdef int open_mount(InodeTable *table, const Identity *identity, int fd, uint16_t mode) noexcept nogil:
    """An fd on the mount of `fd` by which its handles can be opened, tried with the one given; -1 when they can't be."""
    cdef HandleBuffer buffer
    cdef int mount_fd
    cdef int tried
    if not table.use_handles or identity.handle_size == 0:
        return -1
    # open_by_handle_at(2) wants a mount named by an fd that is not O_PATH; a special file is never opened, so such a mount
    # (a device node bound over a file) does without.
    if mode & S_IFMT == S_IFDIR:
        mount_fd = open_proc(table, fd, O_RDONLY | O_DIRECTORY)
    elif mode & S_IFMT == S_IFREG:
        mount_fd = open_proc(table, fd, O_RDONLY | O_NONBLOCK)
    else:
        return -1
    if mount_fd < 0:
        return -1
    buffer.head.handle_bytes = identity.handle_size
    buffer.head.handle_type = identity.handle_type
    memcpy(buffer.bytes, identity.handle, identity.handle_size)
    tried = open_by_handle(mount_fd, &buffer.head, O_PATH)
    if tried < 0:
        close(mount_fd)
        return -1
    close(tried)
    return mount_fd


cdef int mount_of(InodeTable *table, const Identity *identity, int fd, uint16_t mode) noexcept nogil:
    """The index of the identity's mount, with one inode more counted on it (under way); -errno when there is no room.

    Its fd counts as one of the guest's, but the root's.
    """
    cdef int index
    cdef int mount_fd
    cdef int keeps
    cdef uint32_t i
    pthread_mutex_lock(&table.lock)
    index = find_mount(table, identity.mount_id)
    if index >= 0:
        table.mounts[index].inodes += 1
    pthread_mutex_unlock(&table.lock)
    if index >= 0:
        return index
    mount_fd = open_mount(table, identity, fd, mode)
    keeps = mount_fd >= 0 and keeps_open(mount_fd)
    pthread_mutex_lock(&table.lock)
    # Another thread may have met the mount meanwhile.
    index = find_mount(table, identity.mount_id)
    if index < 0:
        i = 1 if table.mount_count > 0 else 0
        while i < table.mount_count and table.mounts[i].inodes > 0:
            i += 1
        if i < MAX_MOUNTS and (i == 0 or mount_fd < 0 or table.fds < table.max_fds):
            if i == table.mount_count:
                table.mount_count += 1
            if i > 0 and mount_fd >= 0:
                table.fds += 1
            table.mounts[i].id = identity.mount_id
            table.mounts[i].fd = mount_fd
            table.mounts[i].keeps_open = keeps
            table.mounts[i].inodes = 0
            mount_fd = -1
            index = <int>i
    if index >= 0:
        table.mounts[index].inodes += 1
    pthread_mutex_unlock(&table.lock)
    if mount_fd >= 0:
        close(mount_fd)
    return index if index >= 0 else -ENFILE


cdef void unuse_mount(InodeTable *table, int index) noexcept nogil:
    """Takes back what mount_of counted; under the lock."""
    cdef Mount *mount = &table.mounts[index]
    mount.inodes -= 1
    if mount.inodes == 0 and index != 0 and mount.fd >= 0:
        close(mount.fd)     # a directory's or a file's that others hold as well, or whose last user is gone: short
        mount.fd = -1
        table.fds -= 1
