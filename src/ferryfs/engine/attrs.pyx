"""Looking up names and reading attributes: the heart of most requests."""

from libc.errno cimport EMFILE, ENFILE, ESTALE, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from ferryfs.engine.fuse_abi cimport FUSE_ATTR_SUBMOUNT, Attr, EntryOut
from ferryfs.engine.handles cimport Handle, handle_of_inode, handle_put
from ferryfs.engine.inodes cimport (
    INODE_INVALID, Identity, Inode, fds_shrink, identify, inode_add, inode_add_open, inode_fd, inode_forget, inode_known, inode_put,
)
from ferryfs.engine.policy cimport id_to_guest
from ferryfs.engine.request cimport reply
from ferryfs.engine.server cimport INIT_SUBMOUNTS, Request, Server
from ferryfs.engine.sys cimport (
    AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, O_CLOEXEC, O_NOFOLLOW, O_PATH, S_IFDIR, S_IFMT, STATX_BASIC_STATS, STATX_MNT_ID,
    STATX_MNT_ID_UNIQUE, Statx, SYS_statx, close, makedev, openat, syscall,
)


cdef enum:
    KIND_SHIFT = 12


cdef int stat_fd(int fd, Statx *st) noexcept nogil:
    """Attributes of what an fd of any sort is; 0 or -errno."""
    if syscall(SYS_statx, fd, <const char *>"", AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, st) < 0:
        return -errno
    return 0


cdef int stat_inode(Server *server, Inode *inode, Statx *st) noexcept nogil:
    """Attributes of a pinned inode; 0 or -errno."""
    cdef Handle *handle
    cdef int fd = inode_fd(&server.inodes, inode)
    cdef int result
    if fd == -ESTALE:
        # The last name is gone and its handle can't be opened any more, but the guest may still have it open.
        handle = handle_of_inode(&server.handles, inode)
        if handle != NULL:
            result = stat_fd(handle.fd, st)
            handle_put(&server.handles, &server.inodes, handle)
            return result
    if fd < 0:
        return fd
    return stat_fd(fd, st)


cdef void fill_attr(const Server *server, const Statx *st, Attr *attr) noexcept nogil:
    """The guest's view of attributes (struct fuse_attr), ids translated."""
    attr.ino = st.ino
    attr.size = st.size
    attr.blocks = st.blocks
    attr.atime = <uint64_t>st.atime.sec
    attr.mtime = <uint64_t>st.mtime.sec
    attr.ctime = <uint64_t>st.ctime.sec
    attr.atimensec = st.atime.nsec
    attr.mtimensec = st.mtime.nsec
    attr.ctimensec = st.ctime.nsec
    attr.mode = st.mode
    attr.nlink = st.nlink
    attr.uid = id_to_guest(server.policy.uids, server.policy.uid_count, st.uid)
    attr.gid = id_to_guest(server.policy.gids, server.policy.gid_count, st.gid)
    # The kernel's "new" device encoding, as FUSE wants it: minor's low byte, major, minor's rest.
    attr.rdev = (st.rdev_minor & 0xff) | (st.rdev_major << 8) | ((st.rdev_minor & ~<uint32_t>0xff) << 12)
    attr.blksize = st.blksize
    attr.flags = 0


cdef void fill_entry(const Server *server, const Inode *parent, const Inode *inode, const Statx *st, EntryOut *entry) noexcept nogil:
    memset(entry, 0, sizeof(EntryOut))
    entry.nodeid = inode.id
    entry.entry_valid = server.settings.entry_seconds
    entry.attr_valid = server.settings.entry_seconds
    entry.entry_valid_nsec = server.settings.entry_nanoseconds
    entry.attr_valid_nsec = server.settings.entry_nanoseconds
    fill_attr(server, st, &entry.attr)
    if (
        parent != NULL and inode.mount != parent.mount and st.mode & S_IFMT == S_IFDIR
        and server.session.flags & INIT_SUBMOUNTS
    ):
        entry.attr.flags = FUSE_ATTR_SUBMOUNT


cdef void undo_lookup(Server *server, Inode *inode) noexcept nogil:
    """Takes back the lookup and the pin of an inode that the guest will not hear of."""
    inode_forget(&server.inodes, inode.id, 1)
    inode_put(&server.inodes, inode)


cdef int identify_open(Server *server, int fd, Identity *identity, Statx *st) noexcept nogil:
    """Identity and attributes of one open fd, of the same inode by construction; 0 or -errno."""
    cdef unsigned int mask = STATX_BASIC_STATS
    cdef int result = identify(&server.inodes, fd, "", AT_EMPTY_PATH, identity)
    if result < 0:
        return result
    mask |= STATX_MNT_ID_UNIQUE if server.inodes.unique_mount_ids else STATX_MNT_ID
    if syscall(SYS_statx, fd, <const char *>"", AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, mask, st) < 0:
        return -errno
    identity.dev = makedev(st.dev_major, st.dev_minor)
    identity.ino = st.ino
    if identity.handle_size == 0:
        identity.mount_id = st.mnt_id
    return 0


cdef int find_known(
    Server *server, Inode *parent, int parent_fd, const char *name, Statx *st, Inode **found
) noexcept nogil:
    """Looks a name up without opening anything: 1 when the guest holds the inode already (found, st), 0 when it has to be
    opened, -errno when there is no such name.
    """
    cdef Identity identity
    cdef Inode *inode
    cdef unsigned int mask = STATX_BASIC_STATS
    cdef int result = identify(&server.inodes, parent_fd, name, 0, &identity)
    if result < 0:
        return result
    if identity.handle_size == 0:
        # No handles here, so that whatever the guest holds keeps an fd, and its number can't be another's.
        mask |= STATX_MNT_ID_UNIQUE if server.inodes.unique_mount_ids else STATX_MNT_ID
        if syscall(SYS_statx, parent_fd, name, AT_SYMLINK_NOFOLLOW, mask, st) < 0:
            return -errno
        identity.mount_id = st.mnt_id
        identity.handle_type = 0
        identity.dev = makedev(st.dev_major, st.dev_minor)
        identity.ino = st.ino
        found[0] = inode_known(&server.inodes, &identity, parent.id, name)
        return found[0] != NULL
    inode = inode_known(&server.inodes, &identity, parent.id, name)
    if inode == NULL:
        return 0
    if inode.fd >= 0:
        result = stat_fd(inode.fd, st)
    elif syscall(SYS_statx, parent_fd, name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, st) < 0:
        result = -errno
    elif (
        st.ino != inode.ino or makedev(st.dev_major, st.dev_minor) != inode.dev
        or st.mode >> KIND_SHIFT != inode.kind
    ):
        # 1. the handle of `name` is made, 2. the host puts another file in its place, 3. statx sees that one.
        # The slow way opens the name once and asks the fd for both.
        result = 1
    if result == 0:
        found[0] = inode
        return 1
    undo_lookup(server, inode)
    return 0


cdef int open_child(
    Server *server, Inode *parent, int parent_fd, const char *name, Statx *st, Inode **found
) noexcept nogil:
    """Looks a name up by opening it once and asking the fd for all there is to know; 0 or -errno."""
    cdef Identity identity
    cdef int result
    cdef int fd = openat(parent_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC)
    if fd < 0 and (errno == EMFILE or errno == ENFILE) and fds_shrink(&server.inodes) > 0:
        fd = openat(parent_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC)
    if fd < 0:
        return -ENFILE if errno == EMFILE else -errno
    result = identify_open(server, fd, &identity, st)
    if result < 0:
        close(fd)
        return result
    return inode_add(&server.inodes, &identity, fd, st.mode, parent.id, name, found)


cdef int find_child(
    Server *server, Inode *parent, int parent_fd, const char *name, EntryOut *entry, Inode **found
) noexcept nogil:
    """Looks `name` up in a directory: fills `entry`, counts one lookup, and returns the inode pinned. 0 or -errno.

    The name must have passed check_name: nothing else keeps it inside the share.
    """
    cdef Statx st
    cdef Inode *inode = NULL
    cdef int result = find_known(server, parent, parent_fd, name, &st, &inode)
    if result == 0:
        result = open_child(server, parent, parent_fd, name, &st, &inode)
    if result < 0:
        return result
    if inode.flags & INODE_INVALID:
        # What lies beneath a mount that the guest uses, and that a migration has not found here: not to be shown for it.
        result = -inode.error
        undo_lookup(server, inode)
        return result
    fill_entry(server, parent, inode, &st, entry)
    found[0] = inode
    return 0


cdef int adopt_created(
    Server *server, Inode *parent, const char *name, int fd, EntryOut *entry, Inode **found
) noexcept nogil:
    """As find_child, for a file that was just created and is open as `fd` (which stays the caller's)."""
    cdef Identity identity
    cdef Statx st
    cdef int result = identify_open(server, fd, &identity, &st)
    if result < 0:
        return result
    result = inode_add_open(&server.inodes, &identity, fd, st.mode, parent.id, name, found)
    if result == 0:
        fill_entry(server, parent, found[0], &st, entry)
    return result


cdef int reply_child(Request *request, Inode *parent, int parent_fd, const char *name, bint is_new) noexcept nogil:
    """Answers with the entry of `name`: the end of LOOKUP, MKDIR, MKNOD, SYMLINK and LINK.

    `is_new`: it was just made, so there is no use in asking whether the guest knows it.
    """
    cdef EntryOut entry
    cdef Statx st
    cdef Inode *inode = NULL
    cdef int result
    if is_new:
        result = open_child(request.server, parent, parent_fd, name, &st, &inode)
        if result == 0:
            fill_entry(request.server, parent, inode, &st, &entry)
    else:
        result = find_child(request.server, parent, parent_fd, name, &entry, &inode)
    if result < 0:
        return result
    result = reply(request, &entry, sizeof(entry))
    if result < 0:
        undo_lookup(request.server, inode)
    else:
        inode_put(&request.server.inodes, inode)
    return result
