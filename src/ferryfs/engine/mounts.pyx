"""The mounts on which the guest's inodes lie, each with an fd by which its file handles can be opened, where they can be."""

from libc.errno cimport ENFILE, errno
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ferryfs.engine.identity cimport HandleBuffer
from ferryfs.engine.inode_fds cimport open_by_handle, open_proc
from ferryfs.engine.inodes cimport MAX_MOUNTS, Identity, InodeTable, Mount
from ferryfs.engine.sys cimport (
    O_DIRECTORY, O_NONBLOCK, O_PATH, O_RDONLY, S_IFDIR, S_IFMT, S_IFREG, close, dup, fstatfs, statfs_t,
    syncfs,
)
from ferryfs.engine.threads cimport pthread_mutex_lock, pthread_mutex_unlock


cdef enum:                      # magic numbers of statfs(2)
    EXT_MAGIC = 0xef53
    XFS_MAGIC = 0x58465342
    BTRFS_MAGIC = 0x9123683e
    F2FS_MAGIC = 0xf2f52010
    TMPFS_MAGIC = 0x01021994
    NFS_MAGIC = 0x6969
    SMB2_MAGIC = 0xfe534d42
    CIFS_MAGIC = 0xff534d42
    CEPH_MAGIC = 0x00c36400
    FUSE_MAGIC = 0x65735546
    V9FS_MAGIC = 0x01021997
    AFS_MAGIC = 0x5346414f


cdef void look_at(Mount *mount) noexcept nogil:
    """What kind of file system the mount's sync_fd is of.

    On a local one an fd that stays open reads what one that is opened anew would. Network file systems look again at each open,
    and an overlay's fd from before a file's first change goes on reading the lower one.
    """
    cdef statfs_t st
    cdef uint32_t magic
    mount.keeps_open = mount.remote = False
    if mount.sync_fd >= 0 and fstatfs(mount.sync_fd, &st) == 0:
        mount.keeps_open = (
            st.f_type == EXT_MAGIC or st.f_type == XFS_MAGIC or st.f_type == BTRFS_MAGIC or st.f_type == F2FS_MAGIC
            or st.f_type == TMPFS_MAGIC
        )
        magic = <uint32_t>st.f_type
        mount.remote = (
            magic == NFS_MAGIC or magic == SMB2_MAGIC or magic == CIFS_MAGIC or magic == CEPH_MAGIC or magic == FUSE_MAGIC
            or magic == V9FS_MAGIC or magic == AFS_MAGIC
        )


cdef int find_mount(const InodeTable *table, uint64_t id) noexcept nogil:
    cdef uint32_t i
    for i in range(table.mount_count):
        if table.mounts[i].id == id and (i == 0 or table.mounts[i].inodes > 0):
            return <int>i
    return -1


cdef int open_mount(InodeTable *table, int fd, uint16_t mode) noexcept nogil:
    """Opens what `fd` is: something of a mount. -1 where that can't be, or is a special file, which is never opened."""
    # open_by_handle_at(2) and syncfs(2) want an fd that is not O_PATH.
    if mode & S_IFMT == S_IFDIR:
        return max(open_proc(table, fd, O_RDONLY | O_DIRECTORY), -1)
    if mode & S_IFMT == S_IFREG:
        return max(open_proc(table, fd, O_RDONLY | O_NONBLOCK), -1)
    return -1


cdef bint opens_handles(const InodeTable *table, const Identity *identity, int mount_fd) noexcept nogil:
    """Whether handles of the mount can be opened: tried with one."""
    cdef HandleBuffer buffer
    cdef int tried
    if mount_fd < 0 or not table.use_handles or identity.handle_size == 0:
        return False
    buffer.head.handle_bytes = identity.handle_size
    buffer.head.handle_type = identity.handle_type
    memcpy(buffer.bytes, identity.handle, identity.handle_size)
    tried = open_by_handle(mount_fd, &buffer.head, O_PATH)
    if tried < 0:
        return False
    close(tried)
    return True


cdef int mount_of(InodeTable *table, const Identity *identity, int fd, uint16_t mode) noexcept nogil:
    """The index of the identity's mount, with one inode more counted on it (under way); -errno when there is no room.

    Its fd counts as one of the guest's, but the root's.
    """
    cdef Mount met
    cdef int index
    cdef uint32_t i
    pthread_mutex_lock(&table.lock)
    index = find_mount(table, identity.mount_id)
    if index >= 0:
        table.mounts[index].inodes += 1
    pthread_mutex_unlock(&table.lock)
    if index >= 0:
        return index
    met.id = identity.mount_id
    met.inodes = 0
    met.sync_fd = open_mount(table, fd, mode)
    met.fd = met.sync_fd if opens_handles(table, identity, met.sync_fd) else -1
    if met.fd < 0 and met.sync_fd >= 0 and mode & S_IFMT != S_IFDIR:
        # A file that stays open keeps its space when it is removed.
        close(met.sync_fd)
        met.sync_fd = -1
    look_at(&met)
    pthread_mutex_lock(&table.lock)
    # Another thread may have met the mount meanwhile.
    index = find_mount(table, identity.mount_id)
    if index < 0:
        i = 1 if table.mount_count > 0 else 0
        while i < table.mount_count and table.mounts[i].inodes > 0:
            i += 1
        if i < MAX_MOUNTS and (i == 0 or met.fd < 0 or table.fds < table.max_fds):
            if i == table.mount_count:
                table.mount_count += 1
            table.mounts[i] = met
            if i > 0 and met.sync_fd >= 0:
                if table.fds < table.max_fds:
                    table.fds += 1
                else:
                    # It is not worth one of the guest's files.
                    table.mounts[i].sync_fd = -1
            if table.mounts[i].sync_fd >= 0:
                met.sync_fd = -1
            index = <int>i
    if index >= 0:
        table.mounts[index].inodes += 1
    pthread_mutex_unlock(&table.lock)
    if met.sync_fd >= 0:
        close(met.sync_fd)
    return index if index >= 0 else -ENFILE


cdef void unuse_mount(InodeTable *table, int index) noexcept nogil:
    """Takes back what mount_of counted; under the lock."""
    cdef Mount *mount = &table.mounts[index]
    mount.inodes -= 1
    if mount.inodes == 0 and index != 0 and mount.sync_fd >= 0:
        close(mount.sync_fd)    # a directory's or a file's that others hold as well, or whose last user is gone: short
        mount.sync_fd = mount.fd = -1
        table.fds -= 1


cdef int mounts_sync(InodeTable *table) noexcept nogil:
    """syncfs(2) of each mount on which the guest holds something; 0 or the first -errno.

    By an fd that was opened before anything was written there: what could not be written back is told once to each fd that is
    open then, and never to one that is opened later, say after somebody else's sync(1).
    """
    cdef const Mount *mount
    cdef uint32_t i = 0
    cdef int result = 0
    cdef int fd
    cdef bint more = True
    while more:
        fd = -1
        pthread_mutex_lock(&table.lock)
        more = i < table.mount_count
        if more:
            mount = &table.mounts[i]
            if (i == 0 or mount.inodes > 0) and mount.sync_fd >= 0:
                # It may be closed while this waits. The copy is of the same open file.
                fd = dup(mount.sync_fd)
                if fd < 0 and result == 0:
                    result = -errno
        pthread_mutex_unlock(&table.lock)
        if fd >= 0:
            if syncfs(fd) < 0 and result == 0:
                result = -errno
            close(fd)
        i += 1
    return result
