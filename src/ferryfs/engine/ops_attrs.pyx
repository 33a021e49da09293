"""GETATTR, SETATTR, STATX, STATFS, ACCESS."""

from libc.errno cimport EACCES, EAGAIN, EBADF, EFBIG, EINVAL, ENOENT, ENOSYS, EPERM, EROFS, ESTALE, errno
from libc.stdint cimport INT64_MAX, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.time cimport timespec

from ferryfs.engine.attrs cimport fill_attr, stat_fd, stat_inode
from ferryfs.engine.creds cimport capability_drop, fsetid_drop, fsetid_restore
from ferryfs.engine.fuse_abi cimport (
    FATTR_ATIME, FATTR_ATIME_NOW, FATTR_FH, FATTR_GID, FATTR_KILL_SUIDGID, FATTR_MODE, FATTR_MTIME, FATTR_MTIME_NOW,
    FATTR_SIZE, FATTR_UID, GETATTR_FH, AttrOut, GetattrIn, SetattrIn, StatfsOut, StatxIn,
)
from ferryfs.engine.handles cimport Handle, handle_get, handle_of_inode, handle_put
from ferryfs.engine.inode_fds cimport inode_fd, inode_open
from ferryfs.engine.inodes cimport Inode, inode_get, inode_get_fd, inode_put
from ferryfs.engine.policy cimport id_to_guest, id_to_host
from ferryfs.engine.request cimport reply
from ferryfs.engine.server cimport Request, Server
from ferryfs.engine.sys cimport (
    AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, O_ACCMODE, O_NONBLOCK, O_RDONLY, O_WRONLY, STATX_BASIC_STATS, STATX_BTIME, S_IFDIR,
    S_IFMT, Stat, SYS_fchmodat2, SYS_statx, Statx, UTIME_NOW, UTIME_OMIT, close, fchmod, fchmodat, fchownat, fstatvfs,
    ftruncate, snprintf, statvfs_t, syscall, utimensat,
)


cdef Handle *usable_handle(Server *server, uint64_t fh) noexcept nogil:
    """The open file of a request that may name one; NULL when there is none with an fd (then the inode serves)."""
    cdef Handle *handle = handle_get(&server.handles, fh)
    if handle != NULL and handle.fd < 0:
        handle_put(&server.handles, &server.inodes, handle)
        return NULL
    return handle


cdef int reply_attr(Request *request, const Stat *st) noexcept nogil:
    cdef AttrOut out
    memset(&out, 0, sizeof(out))
    out.attr_valid = request.server.settings.entry_seconds
    out.attr_valid_nsec = request.server.settings.entry_nanoseconds
    fill_attr(request.server, st, &out.attr)
    return reply(request, &out, sizeof(out))


cdef int op_getattr(Request *request) noexcept nogil:
    cdef Server *server = request.server
    cdef Handle *handle = NULL
    cdef GetattrIn args
    cdef Stat st
    cdef int result
    memcpy(&args, request.args, sizeof(args))
    if args.getattr_flags & GETATTR_FH:
        handle = usable_handle(server, args.fh)
    if handle != NULL and handle.inode != NULL and handle.inode.id == request.head.nodeid:
        result = stat_fd(handle.fd, &st)
    else:
        result = stat_inode(server, request.head.nodeid, &st)
    if handle != NULL:
        handle_put(&server.handles, &server.inodes, handle)
    return reply_attr(request, &st) if result == 0 else result


cdef int op_statx(Request *request) noexcept nogil:
    """STATX (protocol 7.39): as GETATTR, with the birth time. struct fuse_statx has the layout of struct statx."""
    cdef Server *server = request.server
    cdef Handle *handle = NULL
    cdef Inode *inode
    cdef StatxIn args
    cdef Statx st
    cdef uint64_t head[4]
    cdef int fd
    cdef int result = 0
    memcpy(&args, request.args, sizeof(args))
    inode = inode_get(&server.inodes, request.head.nodeid)
    if inode == NULL:
        return -ENOENT
    if args.getattr_flags & GETATTR_FH:
        handle = usable_handle(server, args.fh)
    fd = handle.fd if handle != NULL and handle.inode == inode else inode_fd(&server.inodes, inode)
    if fd < 0:
        result = fd
    else:
        memset(&st, 0, sizeof(st))
        if syscall(
            SYS_statx, fd, <const char *>"", AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS | STATX_BTIME, &st
        ) < 0:
            result = -errno
    if handle != NULL:
        handle_put(&server.handles, &server.inodes, handle)
    inode_put(&server.inodes, inode)
    if result < 0:
        return result
    st.mask &= STATX_BASIC_STATS | STATX_BTIME
    st.uid = id_to_guest(server.policy.uids, server.policy.uid_count, st.uid)
    st.gid = id_to_guest(server.policy.gids, server.policy.gid_count, st.gid)
    st.mnt_id = 0
    memset(st.spare, 0, sizeof(st.spare))
    memset(head, 0, sizeof(head))
    head[0] = server.settings.entry_seconds
    head[1] = server.settings.entry_nanoseconds
    result = reply(request, head, sizeof(head))
    return result if result < 0 else reply(request, &st, sizeof(st))


cdef int change_mode(Server *server, int fd, bint is_open, uint32_t mode) noexcept nogil:
    """Sets the mode of what `fd` is; `is_open`: it is an open file's, not O_PATH. 0 or -errno."""
    cdef char path[16]
    mode &= 0o7777
    if is_open:
        return 0 if fchmod(fd, mode) == 0 else -errno
    if syscall(SYS_fchmodat2, fd, <const char *>"", mode, AT_EMPTY_PATH) == 0:
        return 0
    # Older kernels don't know it, and a container's filter may refuse what it does not know.
    if errno != ENOSYS and errno != EPERM:
        return -errno
    snprintf(path, sizeof(path), "%d", fd)
    return 0 if fchmodat(server.proc_fd, path, mode, 0) == 0 else -errno


cdef int change_owner(Server *server, int fd, const SetattrIn *args) noexcept nogil:
    cdef uint32_t uid = 0xffffffff      # -1: leave it
    cdef uint32_t gid = 0xffffffff
    cdef int result
    if args.valid & FATTR_UID:
        result = id_to_host(server.policy.uids, server.policy.uid_count, args.uid, &uid)
        if result < 0:
            return result
    if args.valid & FATTR_GID:
        result = id_to_host(server.policy.gids, server.policy.gid_count, args.gid, &gid)
        if result < 0:
            return result
    return 0 if fchownat(fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) == 0 else -errno


cdef int change_size(Request *request, Inode *inode, Handle *handle, const SetattrIn *args) noexcept nogil:
    cdef Server *server = request.server
    cdef int fd
    cdef int result = 0
    cdef bint own = False
    cdef bint dropped
    if args.size > <uint64_t>INT64_MAX:
        return -EFBIG
    if handle != NULL and handle.flags & O_ACCMODE != O_RDONLY:
        fd = handle.fd
    else:
        fd = inode_open(&server.inodes, inode, O_WRONLY | O_NONBLOCK)
        if fd == -EAGAIN:
            # As in open_inode: somebody has a lease on it.
            request.may_block(request)
            fd = inode_open(&server.inodes, inode, O_WRONLY)
        if fd < 0:
            return fd if fd != -EBADF else -EINVAL
        own = True
    dropped = fsetid_drop() if args.valid & FATTR_KILL_SUIDGID else False
    result = capability_drop(server, fd)
    if result == 0 and ftruncate(fd, <long>args.size) < 0:
        result = -errno
    fsetid_restore(dropped)
    if own:
        close(fd)
    return result


cdef int change_times(int fd, const SetattrIn *args) noexcept nogil:
    cdef timespec times[2]
    times[0].tv_sec = <long>args.atime
    times[0].tv_nsec = UTIME_OMIT
    times[1].tv_sec = <long>args.mtime
    times[1].tv_nsec = UTIME_OMIT
    if args.valid & FATTR_ATIME_NOW:
        times[0].tv_nsec = UTIME_NOW
    elif args.valid & FATTR_ATIME:
        times[0].tv_nsec = args.atimensec
    if args.valid & FATTR_MTIME_NOW:
        times[1].tv_nsec = UTIME_NOW
    elif args.valid & FATTR_MTIME:
        times[1].tv_nsec = args.mtimensec
    return 0 if utimensat(fd, "", times, AT_EMPTY_PATH) == 0 else -errno


cdef int op_setattr(Request *request) noexcept nogil:
    cdef Server *server = request.server
    cdef Handle *handle = NULL
    cdef Handle *other = NULL
    cdef Inode *inode
    cdef SetattrIn args
    cdef Stat st
    cdef uint32_t times
    cdef int fd
    cdef int result = 0
    memcpy(&args, request.args, sizeof(args))
    if server.settings.readonly:
        return -EROFS
    inode = inode_get(&server.inodes, request.head.nodeid)
    if inode == NULL:
        return -ENOENT
    if args.valid & FATTR_FH:
        handle = usable_handle(server, args.fh)
        if handle != NULL and handle.inode != inode:
            handle_put(&server.handles, &server.inodes, handle)
            handle = NULL
    if handle != NULL:
        fd = handle.fd
    else:
        fd = inode_fd(&server.inodes, inode)
        if fd == -ESTALE:
            other = handle_of_inode(&server.handles, inode)
            if other != NULL:
                fd = other.fd
    if fd < 0:
        result = fd
    # A guest sends what one call of a program changed, so what is most likely to fail comes first. The mode comes after the owner,
    # whose change clears set-user-ID.
    if result == 0 and args.valid & (FATTR_UID | FATTR_GID):
        result = change_owner(server, fd, &args)
    if result == 0 and args.valid & FATTR_MODE:
        result = change_mode(server, fd, handle != NULL or other != NULL, args.mode)
    if result == 0 and args.valid & FATTR_SIZE:
        result = change_size(request, inode, handle if handle != NULL else other, &args)
    times = args.valid & (FATTR_ATIME | FATTR_MTIME | FATTR_ATIME_NOW | FATTR_MTIME_NOW)
    if args.valid & FATTR_SIZE and times & ~<uint32_t>FATTR_MTIME == FATTR_MTIME_NOW:
        # Comes with truncate(2), and ftruncate has done it.
        times = 0
    if result == 0 and times:
        result = change_times(fd, &args)
        if args.valid & FATTR_SIZE:
            # The size is changed, and a guest that is told otherwise goes on with the old one.
            result = 0
    if result == 0:
        result = stat_fd(fd, &st)
    if handle != NULL:
        handle_put(&server.handles, &server.inodes, handle)
    if other != NULL:
        handle_put(&server.handles, &server.inodes, other)
    inode_put(&server.inodes, inode)
    return reply_attr(request, &st) if result == 0 else result


cdef int op_statfs(Request *request) noexcept nogil:
    cdef Server *server = request.server
    cdef Inode *inode = NULL
    cdef StatfsOut out
    cdef statvfs_t st
    cdef int result = 0
    cdef int fd = inode_get_fd(&server.inodes, request.head.nodeid, &inode)
    if fd < 0:
        return fd
    if fstatvfs(fd, &st) < 0:
        result = -errno
    inode_put(&server.inodes, inode)
    if result < 0:
        return result
    memset(&out, 0, sizeof(out))
    out.blocks = st.f_blocks
    out.bfree = st.f_bfree
    out.bavail = st.f_bavail
    out.files = st.f_files
    out.ffree = st.f_ffree
    out.bsize = <uint32_t>st.f_bsize
    out.namelen = <uint32_t>st.f_namemax
    out.frsize = <uint32_t>st.f_frsize
    return reply(request, &out, sizeof(out))


cdef int op_access(Request *request) noexcept nogil:
    """ACCESS by mode bits alone. Linux guests of virtio-fs check permissions themselves and never send it."""
    cdef Server *server = request.server
    cdef uint32_t mask = 0
    cdef uint32_t mode
    cdef Stat st
    cdef int result
    memcpy(&mask, request.args, sizeof(mask))
    result = stat_inode(server, request.head.nodeid, &st)
    if result < 0:
        return result
    mode = st.st_mode
    if mask & 2 and server.settings.readonly:
        return -EROFS
    if request.head.uid == 0:
        # Root may do all, but execute what nobody may.
        return -EACCES if mask & 1 and mode & S_IFMT != S_IFDIR and not mode & 0o111 else 0
    if request.head.uid == id_to_guest(server.policy.uids, server.policy.uid_count, st.st_uid):
        mode >>= 6
    elif request.head.gid == id_to_guest(server.policy.gids, server.policy.gid_count, st.st_gid):
        mode >>= 3
    return 0 if mode & mask & 7 == mask & 7 else -EACCES
