"""OPEN, OPENDIR, RELEASE, RELEASEDIR, FLUSH."""

from libc.errno cimport EAGAIN, EBADF, EISDIR, ENOENT, ENOTDIR, EROFS, ESTALE, errno
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

from ferryfs.engine.creds cimport capability_drop, fsetid_drop, fsetid_restore, has_capability_name
from ferryfs.engine.fuse_abi cimport (
    FOPEN_CACHE_DIR, FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE, FOPEN_NOFLUSH, FUSE_OPEN_KILL_SUIDGID, OpenIn, OpenOut, ReleaseIn,
)
from ferryfs.engine.handles cimport (
    HANDLE_BORROWED, HANDLE_DIR, HANDLE_PLAIN, Handle, handle_add, handle_get, handle_of_inode, handle_put, handle_release,
)
from ferryfs.engine.inode_fds cimport fds_release, fds_reserve, inode_borrow, inode_open
from ferryfs.engine.inodes cimport KIND_SHIFT, Inode, inode_closed, inode_get, inode_put
from ferryfs.engine.request cimport reply
from ferryfs.engine.server cimport CACHE_ALWAYS, CACHE_METADATA, CACHE_NEVER, Request, Server
from ferryfs.engine.sys cimport (
    O_ACCMODE, O_CLOEXEC, O_CREAT, O_DIRECT, O_DIRECTORY, O_DSYNC, O_EXCL, O_NOATIME, O_NOCTTY, O_NONBLOCK, O_PATH,
    O_RDONLY, O_RDWR, O_SYNC, O_TMPFILE, O_TRUNC, O_WRONLY, S_IFDIR, S_IFREG, close, dup, ftruncate, openat, snprintf,
)


cdef enum:
    NOFLUSH_MINOR = 35          # the protocol minor from which a guest knows FOPEN_NOFLUSH
    UNKNOWN_ID = 0xffffffff     # FUSE_INVALID_UIDGID: of requests that make nothing, where ALLOW_IDMAP was negotiated


cdef int host_flags(const Server *server, uint32_t guest_flags) noexcept nogil:
    """The flags that the host's open gets for a guest's.

    O_APPEND never: each WRITE says whether it appends, and a page written back must land where it belongs. Under writeback the
    guest reads what it fills up, so a file opened for writing is opened for reading as well.
    """
    cdef int flags = <int>guest_flags & (O_ACCMODE | O_TRUNC | O_SYNC | O_DSYNC | O_DIRECT | O_NOATIME)
    if not server.settings.allow_direct_io:
        flags &= ~O_DIRECT
    if not server.settings.preserve_noatime:
        flags &= ~O_NOATIME
    if server.settings.writeback and flags & O_ACCMODE == O_WRONLY:
        flags = (flags & ~O_ACCMODE) | O_RDWR
    return flags | O_NONBLOCK | O_CLOEXEC


cdef int kept_flags(uint32_t guest_flags, bint directory) noexcept nogil:
    """The flags that stay with an open file and travel with it: wherever it is opened again, none of them may keep it from that.

    Linux says O_TMPFILE, and so O_DIRECTORY, of what it makes by TMPFILE.
    """
    cdef int flags = <int>guest_flags & ~(O_CREAT | O_EXCL | O_TRUNC | O_NOCTTY | O_PATH | (O_TMPFILE & ~O_DIRECTORY))
    return flags & ~(O_ACCMODE | O_DIRECT if directory else O_DIRECTORY)


cdef uint32_t open_flags(const Server *server, uint32_t guest_flags, bint directory) noexcept nogil:
    """FOPEN_… for an open file, by the cache policy as virtiofsd defines it."""
    cdef uint32_t flags = 0
    if server.settings.cache == CACHE_NEVER and not directory:
        flags |= FOPEN_DIRECT_IO
    elif server.settings.cache == CACHE_METADATA:
        flags |= FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE if directory else FOPEN_DIRECT_IO
    elif server.settings.cache == CACHE_ALWAYS:
        flags |= FOPEN_KEEP_CACHE
        if directory:
            flags |= FOPEN_CACHE_DIR
    if not directory and guest_flags & <uint32_t>O_ACCMODE == <uint32_t>O_RDONLY and server.session.minor >= NOFLUSH_MINOR:
        flags |= FOPEN_NOFLUSH
    return flags


cdef int reply_open(Request *request, Inode *inode, int fd, uint32_t guest_flags, uint8_t state) noexcept nogil:
    """Files an open fd (counted, and taken over) and answers with its fh; `state` as handle_add's. 0 or -errno."""
    cdef Server *server = request.server
    cdef OpenOut out
    cdef int result
    memset(&out, 0, sizeof(out))
    result = handle_add(
        &server.handles, &server.inodes, inode, fd, kept_flags(guest_flags, state & HANDLE_DIR), state, &out.fh
    )
    if result < 0:
        if state & HANDLE_BORROWED:
            inode_closed(&server.inodes, inode)
        else:
            close(fd)
        fds_release(&server.inodes)
        return result
    out.open_flags = open_flags(server, guest_flags, state & HANDLE_DIR)
    result = reply(request, &out, sizeof(out))
    if result < 0:
        handle_release(&server.handles, &server.inodes, out.fh)
    return result


cdef int reopen(Server *server, Inode *inode, int flags) noexcept nogil:
    """Opens an inode; when its handle is stale but the guest has it open elsewhere, through that."""
    cdef Handle *handle
    cdef char path[16]
    cdef int fd = inode_open(&server.inodes, inode, flags)
    if fd != -ESTALE:
        return fd
    handle = handle_of_inode(&server.handles, inode)
    if handle == NULL:
        return -ESTALE
    snprintf(path, sizeof(path), "%d", handle.fd)
    fd = openat(server.proc_fd, path, flags)
    if fd < 0:
        fd = -errno
    handle_put(&server.handles, &server.inodes, handle)
    return fd


cdef bint kills_setid(const Request *request, const OpenIn *args) noexcept nogil:
    """Whether opening clears set-user-ID and set-group-ID: the guest says so, or (without HANDLE_KILLPRIV_V2, where a Linux
    guest leaves a truncating open to us and forgets about the bits) somebody but root truncates.

    Who it is, a guest from Linux 6.12 on does not say (ALLOW_IDMAP). Then the bits stay: root may keep them, and for anybody else
    the guest clears them with the first byte that is written.
    """
    if args.open_flags & FUSE_OPEN_KILL_SUIDGID:
        return True
    return args.flags & <uint32_t>O_TRUNC and request.head.uid != 0 and request.head.uid != UNKNOWN_ID


cdef int open_inode(Request *request, bint directory) noexcept nogil:
    cdef Server *server = request.server
    cdef Inode *inode
    cdef OpenIn args
    cdef uint8_t state = HANDLE_DIR if directory else 0
    cdef int flags
    cdef int fd = -1
    cdef int result
    cdef bint dropped = False
    cdef bint cut = False
    memcpy(&args, request.args, sizeof(args))
    if not directory and server.settings.readonly and (
        args.flags & <uint32_t>O_ACCMODE != <uint32_t>O_RDONLY or args.flags & <uint32_t>O_TRUNC
    ):
        return -EROFS
    inode = inode_get(&server.inodes, request.head.nodeid)
    if inode == NULL:
        return -ENOENT
    if directory:
        flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC
        result = 0 if inode.kind == S_IFDIR >> KIND_SHIFT else -ENOTDIR
    else:
        flags = host_flags(server, args.flags)
        # FIFOs, sockets and devices are the guest kernel's own business: it never asks us to open one.
        result = 0 if inode.kind == S_IFREG >> KIND_SHIFT else -EISDIR if inode.kind == S_IFDIR >> KIND_SHIFT else -EBADF
    if result == 0:
        result = fds_reserve(&server.inodes)
    if result == 0:
        if flags & O_TRUNC and flags & O_ACCMODE != O_RDONLY and has_capability_name(server):
            # The file's capabilities go first, and where they can't the content must not be gone.
            cut = True
            flags &= ~O_TRUNC
        if not directory and kills_setid(request, &args):
            dropped = fsetid_drop()
        if not directory and flags == O_RDONLY | O_NONBLOCK | O_CLOEXEC:
            state = HANDLE_PLAIN
            fd = inode_borrow(&server.inodes, inode)
        if fd >= 0:
            state |= HANDLE_BORROWED
        else:
            fd = reopen(server, inode, flags)
            if fd == -EAGAIN:
                # A process of the host has a lease on it, and is asked to give it up: a local program would wait for that.
                request.may_block(request)
                fd = reopen(server, inode, flags & ~O_NONBLOCK)
        if fd >= 0 and (cut or flags & O_TRUNC):
            result = capability_drop(server, fd)
            if result == 0 and cut and ftruncate(fd, 0) < 0:
                result = -errno
            if result < 0:
                close(fd)
                fd = result
        fsetid_restore(dropped)
        if fd < 0:
            fds_release(&server.inodes)
            result = fd
        else:
            result = reply_open(request, inode, fd, args.flags, state)
    inode_put(&server.inodes, inode)
    return result


cdef int op_open(Request *request) noexcept nogil:
    return open_inode(request, False)


cdef int op_opendir(Request *request) noexcept nogil:
    return open_inode(request, True)


cdef int op_release(Request *request) noexcept nogil:
    cdef ReleaseIn args
    memcpy(&args, request.args, sizeof(args))
    return handle_release(&request.server.handles, &request.server.inodes, args.fh)


cdef int op_flush(Request *request) noexcept nogil:
    """FLUSH: the guest's close(2). Closing a duplicate lets a network file system report what it could not write."""
    cdef Server *server = request.server
    cdef ReleaseIn args
    cdef Handle *handle
    cdef int fd
    cdef int result = 0
    memcpy(&args, request.args, sizeof(args))
    handle = handle_get(&server.handles, args.fh)
    if handle == NULL:
        return -EBADF
    if handle.fd < 0:
        result = -handle.error
    elif handle.flags & O_ACCMODE != O_RDONLY:
        fd = dup(handle.fd)
        if fd < 0 or close(fd) < 0:
            result = -errno
    handle_put(&server.handles, &server.inodes, handle)
    return result
