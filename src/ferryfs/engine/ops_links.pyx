"""LINK, UNLINK, RMDIR, RENAME, RENAME2, READLINK: names coming, going and moving."""

from libc.errno cimport EINVAL, ENOENT, EROFS, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from ferryfs.engine.attrs cimport reply_child, stat_fd
from ferryfs.engine.creds cimport Creds, creds_enter, creds_keep_access, creds_leave
from ferryfs.engine.fuse_abi cimport Rename2In
from ferryfs.engine.identity cimport identify
from ferryfs.engine.inode_fds cimport inode_fd, inode_keep_fd
from ferryfs.engine.inodes cimport (
    INODE_LOOKED_UP, KIND_SHIFT, Identity, Inode, inode_forget, inode_get_fd, inode_known, inode_put,
)
from ferryfs.engine.policy cimport id_to_host
from ferryfs.engine.request cimport check_name, reply, take_string
from ferryfs.engine.server cimport Request, Server
from ferryfs.engine.sys cimport (
    AT_REMOVEDIR, AT_SYMLINK_FOLLOW, AT_SYMLINK_NOFOLLOW, S_IFREG, Stat, SYS_newfstatat, linkat, readlinkat, renameat2, snprintf,
    syscall, unlinkat,
)


cdef enum:
    RENAME_NOREPLACE = 1
    RENAME_EXCHANGE = 2
    RENAME_WHITEOUT = 4
    LINK_MAX = 4096             # PATH_MAX: no symlink is longer
    UNKNOWN_ID = 0xffffffff     # FUSE_INVALID_UIDGID


cdef int op_link(Request *request) noexcept nogil:
    cdef Server *server = request.server
    cdef uint32_t position = 8
    cdef const char *name = take_string(request, &position)
    cdef Inode *parent = NULL
    cdef Inode *inode = NULL
    cdef uint64_t oldnodeid = 0
    cdef char path[16]
    cdef Stat there
    cdef Stat linked
    cdef int parent_fd
    cdef int fd
    cdef int result = check_name(name)
    if result < 0:
        return result
    if server.settings.readonly:
        return -EROFS
    memcpy(&oldnodeid, request.args, sizeof(oldnodeid))
    parent_fd = inode_get_fd(&server.inodes, request.head.nodeid, &parent)
    if parent_fd < 0:
        return parent_fd
    fd = inode_get_fd(&server.inodes, oldnodeid, &inode)
    if fd < 0:
        inode_put(&server.inodes, parent)
        return fd
    # AT_EMPTY_PATH would need CAP_DAC_READ_SEARCH; through /proc/self/fd it works without, for a nameless file too.
    snprintf(path, sizeof(path), "%d", fd)
    if linkat(server.proc_fd, path, parent_fd, name, AT_SYMLINK_FOLLOW) < 0:
        result = -errno
    if result == 0:
        result = reply_child(request, parent, parent_fd, name, False)
        if result < 0:
            # What failed is not there, unless the name is another one's by now.
            if (
                syscall(SYS_newfstatat, parent_fd, name, &there, AT_SYMLINK_NOFOLLOW) == 0 and stat_fd(fd, &linked) == 0
                and there.st_ino == linked.st_ino and there.st_dev == linked.st_dev
            ):
                unlinkat(parent_fd, name, 0)
    inode_put(&server.inodes, inode)
    inode_put(&server.inodes, parent)
    return result


cdef Inode *about_to_go(Server *server, Inode *parent, int fd, const char *name) noexcept nogil:
    """What has this name, pinned and with an fd, when the guest could miss it once the name is gone; else NULL.

    A file handle keeps nothing alive, and what was removed can't be opened by it. An open file or directory has an fd of
    its own. But a FIFO that the guest has open, or a directory that somebody works in, has none; nor has a closed file whose
    times a guest with write-back writes after the removal: all would get ESTALE, which a later syncfs reports as well.
    Any other closed file that was looked up, which a process can only have by O_PATH, gets an fd that is cached: it lasts as long as
    there is room. One that the guest made itself goes without: it would cost each temporary file.
    """
    cdef Identity identity
    cdef Inode *inode
    cdef bint lasting
    if identify(&server.inodes, fd, name, 0, &identity) < 0 or identity.handle_size == 0:
        return NULL
    inode = inode_known(&server.inodes, &identity, parent.id, name)
    if inode == NULL:
        return NULL
    inode_forget(&server.inodes, inode.id, 1)
    lasting = inode.kind != S_IFREG >> KIND_SHIFT or server.settings.writeback
    if (lasting or (inode.opens == 0 and inode.flags & INODE_LOOKED_UP)) and inode_fd(&server.inodes, inode) >= 0 and lasting:
        return inode
    inode_put(&server.inodes, inode)
    return NULL


cdef void gone(Server *server, Inode *inode, int result) noexcept nogil:
    """The end of about_to_go: the removal ended with `result`."""
    if inode != NULL:
        if result == 0:
            inode_keep_fd(&server.inodes, inode)
        inode_put(&server.inodes, inode)


cdef int remove(Request *request, int flags) noexcept nogil:
    cdef Server *server = request.server
    cdef uint32_t position = 0
    cdef const char *name = take_string(request, &position)
    cdef Inode *parent = NULL
    cdef Inode *victim
    cdef int fd
    cdef int result = check_name(name)
    if result < 0:
        return result
    if server.settings.readonly:
        return -EROFS
    fd = inode_get_fd(&server.inodes, request.head.nodeid, &parent)
    if fd < 0:
        return fd
    victim = about_to_go(server, parent, fd, name)
    if unlinkat(fd, name, flags) < 0:
        result = -errno
    gone(server, victim, result)
    inode_put(&server.inodes, parent)
    return result


cdef int op_unlink(Request *request) noexcept nogil:
    return remove(request, 0)


cdef int op_rmdir(Request *request) noexcept nogil:
    return remove(request, AT_REMOVEDIR)


cdef void note_place(Server *server, Inode *parent, int fd, const char *name) noexcept nogil:
    """Writes down where a renamed inode is now, when the guest holds it: what a migration tries first."""
    cdef Identity identity
    cdef Inode *inode
    if identify(&server.inodes, fd, name, 0, &identity) < 0 or identity.handle_size == 0:
        return
    inode = inode_known(&server.inodes, &identity, parent.id, name)
    if inode != NULL:
        inode_forget(&server.inodes, inode.id, 1)
        inode_put(&server.inodes, inode)


cdef int rename_to_whiteout(Request *request, int fd, const char *name, int newfd, const char *newname, uint32_t flags) noexcept nogil:
    """renameat2 with RENAME_WHITEOUT, which makes a device node under the old name: whoever asked owns it. 0 or -errno.

    So a guest says who that is also where it doesn't for other renames (Linux from 6.12 on, with ALLOW_IDMAP). One that does not
    is taken for its root, whom a translation may know.
    """
    cdef Server *server = request.server
    cdef Creds creds
    cdef uint32_t uid = request.head.uid if request.head.uid != UNKNOWN_ID else 0
    cdef uint32_t gid = request.head.gid if request.head.gid != UNKNOWN_ID else 0
    cdef int result = id_to_host(server.policy.uids, server.policy.uid_count, uid, &uid)
    if result == 0:
        result = id_to_host(server.policy.gids, server.policy.gid_count, gid, &gid)
    # -1 means "leave it" to setresuid.
    if result == 0 and (uid == UNKNOWN_ID or gid == UNKNOWN_ID):
        result = -EINVAL
    if result == 0:
        result = creds_enter(server, &creds, uid, gid, False, 0)
    if result < 0:
        return result
    creds_keep_access()
    if renameat2(fd, name, newfd, newname, flags) < 0:
        result = -errno
    creds_leave(server, &creds)
    return result


cdef int rename(Request *request, uint64_t newdir, uint32_t flags, uint32_t position) noexcept nogil:
    cdef Server *server = request.server
    cdef const char *name = take_string(request, &position)
    cdef const char *newname = take_string(request, &position)
    cdef Inode *parent = NULL
    cdef Inode *newparent = NULL
    cdef Inode *victim = NULL
    cdef int fd
    cdef int newfd
    cdef int result = check_name(name)
    if result < 0:
        return result
    result = check_name(newname)
    if result < 0:
        return result
    if flags & ~<uint32_t>(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT):
        return -EINVAL
    if server.settings.readonly:
        return -EROFS
    fd = inode_get_fd(&server.inodes, request.head.nodeid, &parent)
    if fd < 0:
        return fd
    newfd = inode_get_fd(&server.inodes, newdir, &newparent)
    if newfd < 0:
        inode_put(&server.inodes, parent)
        return newfd
    if not flags & (RENAME_EXCHANGE | RENAME_NOREPLACE):
        victim = about_to_go(server, newparent, newfd, newname)
    if flags & RENAME_WHITEOUT:
        result = rename_to_whiteout(request, fd, name, newfd, newname, flags)
    elif renameat2(fd, name, newfd, newname, flags) < 0:
        result = -errno
    gone(server, victim, result)
    if result == 0:
        note_place(server, newparent, newfd, newname)
        if flags & RENAME_EXCHANGE:
            note_place(server, parent, fd, name)
    inode_put(&server.inodes, newparent)
    inode_put(&server.inodes, parent)
    return result


cdef int op_rename(Request *request) noexcept nogil:
    cdef uint64_t newdir = 0
    memcpy(&newdir, request.args, sizeof(newdir))
    return rename(request, newdir, 0, sizeof(newdir))


cdef int op_rename2(Request *request) noexcept nogil:
    cdef Rename2In args
    memcpy(&args, request.args, sizeof(args))
    return rename(request, args.newdir, args.flags, sizeof(args))


cdef int op_readlink(Request *request) noexcept nogil:
    cdef Server *server = request.server
    cdef Inode *inode = NULL
    cdef ssize_t length
    cdef int fd = inode_get_fd(&server.inodes, request.head.nodeid, &inode)
    if fd < 0:
        return fd
    length = readlinkat(fd, "", <char *>request.scratch, LINK_MAX)
    if length < 0:
        # Linux says ENOENT for an fd that is no symlink; the guest asked for something that can't be.
        length = -EINVAL if errno == ENOENT else -errno
    inode_put(&server.inodes, inode)
    return <int>length if length < 0 else reply(request, request.scratch, <uint32_t>length)
