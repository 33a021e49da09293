"""Looking up names and reading attributes: the heart of most requests."""

from libc.errno cimport EMFILE, ENFILE, ENOENT, ESTALE, errno
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from ferryfs.engine.fuse_abi cimport FUSE_ATTR_SUBMOUNT, Attr, EntryOut
from ferryfs.engine.handles cimport Handle, handle_of_inode, handle_put
from ferryfs.engine.identity cimport has_number, identify, identify_stat, number_in
from ferryfs.engine.inode_fds cimport fds_have_room, fds_shrink, inode_fd
from ferryfs.engine.inodes cimport (
    INODE_INVALID, KIND_SHIFT, Identity, Inode, InodeTable, inode_add, inode_add_open, inode_add_unopened, inode_forget, inode_get,
    inode_get_fd, inode_known, inode_put,
)
from ferryfs.engine.policy cimport id_to_guest
from ferryfs.engine.request cimport reply
from ferryfs.engine.server cimport INIT_SUBMOUNTS, Request, Server
from ferryfs.engine.sys cimport (
    AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, O_CLOEXEC, O_NOFOLLOW, O_PATH, S_IFDIR, S_IFMT, Stat, SYS_fstat, SYS_newfstatat,
    close, openat, syscall,
)


cdef int stat_fd(int fd, Stat *st) noexcept nogil:
    """Attributes of what an fd of any sort is; 0 or -errno."""
    # glibc's fstat would go through newfstatat and an empty path.
    return 0 if syscall(SYS_fstat, fd, st) == 0 else -errno


cdef int stat_open(Server *server, uint64_t nodeid, Stat *st) noexcept nogil:
    """Attributes of an inode by an open file of it: its last name is gone, and its handle can't be opened any more. 0 or -errno."""
    cdef Inode *inode = inode_get(&server.inodes, nodeid)
    cdef Handle *handle
    cdef int result = -ESTALE
    if inode == NULL:
        return -ENOENT
    handle = handle_of_inode(&server.handles, inode)
    if handle != NULL:
        result = stat_fd(handle.fd, st)
        handle_put(&server.handles, &server.inodes, handle)
    inode_put(&server.inodes, inode)
    return result


cdef int stat_inode(Server *server, uint64_t nodeid, Stat *st) noexcept nogil:
    """Attributes of an inode that the guest knows; 0 or -errno."""
    cdef Inode *inode = NULL
    cdef int fd = inode_get_fd(&server.inodes, nodeid, &inode)
    cdef int result
    if fd < 0:
        return stat_open(server, nodeid, st) if fd == -ESTALE else fd
    result = stat_fd(fd, st)
    inode_put(&server.inodes, inode)
    return result


cdef void fill_attr(const Server *server, const Stat *st, Attr *attr) noexcept nogil:
    """The guest's view of attributes (struct fuse_attr), ids translated."""
    attr.ino = st.st_ino
    attr.size = st.st_size
    attr.blocks = st.st_blocks
    attr.atime = <uint64_t>st.st_atim.tv_sec
    attr.mtime = <uint64_t>st.st_mtim.tv_sec
    attr.ctime = <uint64_t>st.st_ctim.tv_sec
    attr.atimensec = <uint32_t>st.st_atim.tv_nsec
    attr.mtimensec = <uint32_t>st.st_mtim.tv_nsec
    attr.ctimensec = <uint32_t>st.st_ctim.tv_nsec
    attr.mode = st.st_mode
    attr.nlink = <uint32_t>st.st_nlink
    attr.uid = id_to_guest(server.policy.uids, server.policy.uid_count, st.st_uid)
    attr.gid = id_to_guest(server.policy.gids, server.policy.gid_count, st.st_gid)
    # The kernel's "new" device encoding, as FUSE wants it: minor's low byte, major, minor's rest. Linux has no more than 32 bits.
    attr.rdev = <uint32_t>st.st_rdev
    attr.blksize = <uint32_t>st.st_blksize
    attr.flags = 0


cdef void fill_entry(const Server *server, const Inode *parent, const Inode *inode, const Stat *st, EntryOut *entry) noexcept nogil:
    memset(entry, 0, sizeof(EntryOut))
    entry.nodeid = inode.id
    entry.entry_valid = server.settings.entry_seconds
    entry.attr_valid = server.settings.entry_seconds
    entry.entry_valid_nsec = server.settings.entry_nanoseconds
    entry.attr_valid_nsec = server.settings.entry_nanoseconds
    fill_attr(server, st, &entry.attr)
    if (
        parent != NULL and inode.mount != parent.mount and st.st_mode & S_IFMT == S_IFDIR
        and server.session.flags & INIT_SUBMOUNTS
    ):
        entry.attr.flags = FUSE_ATTR_SUBMOUNT


cdef void undo_lookup(Server *server, Inode *inode) noexcept nogil:
    """Takes back the lookup and the pin of an inode that the guest will not hear of."""
    inode_forget(&server.inodes, inode.id, 1)
    inode_put(&server.inodes, inode)


cdef int identify_open(Server *server, int fd, Identity *identity, Stat *st) noexcept nogil:
    """Identity and attributes of one open fd, of the same inode by construction; 0 or -errno."""
    cdef uint16_t mode = 0
    cdef int result = identify(&server.inodes, fd, "", AT_EMPTY_PATH, identity)
    if result == 0:
        result = stat_fd(fd, st)
    if result == 0:
        identity.dev = st.st_dev
        identity.ino = st.st_ino
        if identity.handle_size == 0:
            result = identify_stat(&server.inodes, fd, "", AT_EMPTY_PATH, identity, &mode)
    return result


cdef int stat_known(InodeTable *table, Inode *inode, int parent_fd, const char *name, Stat *st) noexcept nogil:
    """Attributes of a pinned inode that was just found by `name`: 1, 0 when the name is another file's by now, or -errno.

    What is looked up again is worth an fd, as long as there is room for it: asking that is cheaper than asking the name.
    """
    cdef int fd = inode.fd
    cdef int result
    if fd < 0 and fds_have_room(table):
        fd = inode_fd(table, inode)
    if fd >= 0:
        result = stat_fd(fd, st)
        return 1 if result == 0 else result
    if syscall(SYS_newfstatat, parent_fd, name, st, AT_SYMLINK_NOFOLLOW) < 0:
        return -errno
    # 1. the handle of `name` is made, 2. the host puts another file in its place, 3. newfstatat sees that one.
    return st.st_ino == inode.ino and st.st_dev == inode.dev and st.st_mode >> KIND_SHIFT == inode.kind


cdef int add_unopened(
    Server *server, const Inode *parent, int parent_fd, const char *name, Identity *identity, Stat *st, Inode **found
) noexcept nogil:
    """Takes in what the guest does not hold yet by its handle alone: 1, 0 when it has to be opened, or -errno.

    1. the handle of `name` is made, 2. the host puts another file in its place, 3. newfstatat sees that one: so the handle must carry
    the number that newfstatat saw. If the other one was given the same number, the first is gone for good: its handle can't be
    opened any more, the guest gets ESTALE whatever it does with the inode, and looks the name up anew.
    """
    if syscall(SYS_newfstatat, parent_fd, name, st, AT_SYMLINK_NOFOLLOW) < 0:
        return -errno
    if st.st_dev != parent.dev or st.st_ino != number_in(identity):
        return 0
    identity.dev = st.st_dev
    identity.ino = st.st_ino
    return inode_add_unopened(&server.inodes, identity, parent, <uint16_t>st.st_mode, name, found)


cdef int find_unopened(
    Server *server, Inode *parent, int parent_fd, const char *name, Stat *st, Inode **found
) noexcept nogil:
    """Looks a name up without opening it: 1 when that was enough (found, st), 0 when it has to be opened, or -errno (there is no
    such name).
    """
    cdef Identity identity
    cdef Inode *inode
    cdef uint16_t mode = 0
    cdef int result = identify(&server.inodes, parent_fd, name, 0, &identity)
    if result == 0 and identity.handle_size == 0:
        # No handles here, so that whatever the guest holds keeps an fd, and its number can't be another's.
        result = identify_stat(&server.inodes, parent_fd, name, 0, &identity, &mode)
    if result < 0:
        return result
    inode = inode_known(&server.inodes, &identity, parent.id, name)
    if inode == NULL:
        if not has_number(&identity):
            return 0
        return add_unopened(server, parent, parent_fd, name, &identity, st, found)
    result = stat_known(&server.inodes, inode, parent_fd, name, st)
    if result == 1:
        found[0] = inode
    else:
        undo_lookup(server, inode)
    # Whatever went wrong, the slow way tells: it opens the name once and asks the fd for both.
    return result == 1


cdef int open_child(
    Server *server, Inode *parent, int parent_fd, const char *name, Stat *st, Inode **found
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
    return inode_add(&server.inodes, &identity, fd, <uint16_t>st.st_mode, parent.id, name, found)


cdef int find_child(
    Server *server, Inode *parent, int parent_fd, const char *name, EntryOut *entry, Inode **found
) noexcept nogil:
    """Looks `name` up in a directory: fills `entry`, counts one lookup, and returns the inode pinned. 0 or -errno.

    The name must have passed check_name: nothing else keeps it inside the share.
    """
    cdef Stat st
    cdef Inode *inode = NULL
    cdef int result = find_unopened(server, parent, parent_fd, name, &st, &inode)
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
    cdef Stat st
    cdef int result = identify_open(server, fd, &identity, &st)
    if result < 0:
        return result
    result = inode_add_open(&server.inodes, &identity, fd, <uint16_t>st.st_mode, parent.id, name, found)
    if result == 0:
        fill_entry(server, parent, found[0], &st, entry)
    return result


cdef int reply_child(Request *request, Inode *parent, int parent_fd, const char *name, bint is_new) noexcept nogil:
    """Answers with the entry of `name`: the end of LOOKUP, MKDIR, MKNOD, SYMLINK and LINK.

    `is_new`: it was just made, so there is no use in asking whether the guest knows it.
    """
    cdef EntryOut entry
    cdef Stat st
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
