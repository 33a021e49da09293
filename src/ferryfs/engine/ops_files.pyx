"""FSYNC, FSYNCDIR, FALLOCATE, LSEEK, COPY_FILE_RANGE, SYNCFS, IOCTL: what else is done to open files."""

from libc.errno cimport EBADF, EFBIG, EINVAL, EISDIR, ENOENT, ENOTTY, EPERM, EROFS, errno
from libc.stdint cimport INT64_MAX, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ferryfs.engine.clock cimport now_ns
from ferryfs.engine.creds cimport capability_drop, fsetid_drop, fsetid_restore
from ferryfs.engine.fuse_abi cimport FSYNC_FDATASYNC, CopyFileRangeIn, FallocateIn, FsyncIn, IoctlIn, IoctlOut, LseekIn
from ferryfs.engine.handles cimport (
    HANDLE_DIR, HANDLE_SYNCS_SOON, Handle, handle_clear_state, handle_get, handle_put, handle_set_state, handle_written,
)
from ferryfs.engine.inode_fds cimport inode_open
from ferryfs.engine.inodes cimport Inode, inode_get, inode_put
from ferryfs.engine.mounts cimport mounts_sync
from ferryfs.engine.request cimport reply
from ferryfs.engine.server cimport INIT_HANDLE_KILLPRIV_V2, INIT_WRITEBACK_CACHE, NOT_SERVED, PUT_OFF, Request, Server
from ferryfs.engine.sys cimport O_NONBLOCK, O_RDONLY, close, copy_file_range, fallocate, fdatasync, fsync, ioctl, lseek, syncfs


cdef enum:
    FS_IOC_GETFLAGS = 0x80086601        # include/uapi/linux/fs.h; the 64-bit forms
    FS_IOC_SETFLAGS = 0x40086602
    FS_IOC_FSGETXATTR = 0x801c581f
    FS_IOC_FSSETXATTR = 0x401c5820
    FSXATTR_SIZE = 28
    # One COPY_FILE_RANGE answers with 32 bits, and the guest must not wait for ever: it asks again for the rest.
    COPY_AT_ONCE = 1 << 30
    SYNC_FINISHERS = 4                  # a disk makes one flush of several
    SOON_NS = 100000                    # an FSYNC that takes less had nothing to write


cdef Handle *open_file(Request *request, uint64_t fh, bint regular, int *error) noexcept nogil:
    """The open file `fh` in use, or NULL and an error (negative). `regular`: a directory won't do."""
    cdef Server *server = request.server
    cdef Handle *handle = handle_get(&server.handles, fh)
    if handle == NULL:
        error[0] = -EBADF
        return NULL
    if handle.fd < 0:
        error[0] = -handle.error
    elif regular and handle.state & HANDLE_DIR:
        error[0] = -EISDIR
    else:
        return handle
    handle_put(&server.handles, &server.inodes, handle)
    return NULL


cdef void done_with(Request *request, Handle *handle) noexcept nogil:
    handle_put(&request.server.handles, &request.server.inodes, handle)


cdef bint kills_setid(const Request *request) noexcept nogil:
    """Whether changing a file's content clears set-user-ID and set-group-ID.

    With HANDLE_KILLPRIV_V2 a Linux guest leaves that to us, but has no flag for it in these requests, and from 6.12 on not even the
    caller's id. So all but what is known to be root's clears them: a stranger's bytes must not run as the file's owner.
    """
    return request.server.session.flags & INIT_HANDLE_KILLPRIV_V2 and request.head.uid != 0


cdef int sync(Request *request, Handle *handle, bint data_only) noexcept nogil:
    """fsync or fdatasync of an open file, where it delays nobody: 0, -errno or PUT_OFF.

    The ring is handed on, which costs more than the fsync of a file without changes. So the last one's time says what to do with the
    next, until the file is written to: where others wait too, one that will hardly wait is left to a few finishers. Where the guess
    is wrong the monitor calls more of them.
    """
    cdef bint soon = handle.state & HANDLE_SYNCS_SOON != 0
    cdef uint64_t began
    cdef int result = 0
    if soon and not request.patient and request.may_put_off(request):
        request.finishers = SYNC_FINISHERS
        return PUT_OFF
    request.may_block(request)
    began = now_ns()
    if (fdatasync(handle.fd) if data_only else fsync(handle.fd)) < 0:
        result = -errno
    if (now_ns() - began < SOON_NS) != soon:
        if soon:
            handle_clear_state(&request.server.handles, handle, HANDLE_SYNCS_SOON)
        else:
            handle_set_state(&request.server.handles, handle, HANDLE_SYNCS_SOON)
    return result


cdef int op_fsync(Request *request) noexcept nogil:
    cdef FsyncIn args
    cdef Handle *handle
    cdef int result = 0
    memcpy(&args, request.args, sizeof(args))
    handle = open_file(request, args.fh, False, &result)
    if handle == NULL:
        return result
    result = sync(request, handle, args.fsync_flags & FSYNC_FDATASYNC)
    done_with(request, handle)
    return result


cdef int op_fallocate(Request *request) noexcept nogil:
    cdef FallocateIn args
    cdef Handle *handle
    cdef int result = 0
    cdef bint dropped
    memcpy(&args, request.args, sizeof(args))
    if request.server.settings.readonly:
        return -EROFS
    if args.offset > <uint64_t>INT64_MAX or args.length > <uint64_t>INT64_MAX - args.offset:
        return -EFBIG
    handle = open_file(request, args.fh, True, &result)
    if handle == NULL:
        return result
    dropped = fsetid_drop() if kills_setid(request) else False
    handle_written(&request.server.handles, handle)
    result = capability_drop(request.server, handle.fd)
    if result == 0 and fallocate(handle.fd, <int>args.mode, <int64_t>args.offset, <int64_t>args.length) < 0:
        result = -errno
    fsetid_restore(dropped)
    done_with(request, handle)
    return result


cdef int op_lseek(Request *request) noexcept nogil:
    """LSEEK: SEEK_DATA and SEEK_HOLE in practice. The host fd's own offset is used by nothing else on regular files.

    Not with WRITEBACK_CACHE: a Linux guest asks without writing back first, so what it has just written would be a hole to a
    program that copies only data. After ENOSYS it says that all is data, which is always right.
    """
    cdef LseekIn args
    cdef Handle *handle
    cdef int64_t offset
    cdef int result = 0
    if request.server.session.flags & INIT_WRITEBACK_CACHE:
        return NOT_SERVED
    memcpy(&args, request.args, sizeof(args))
    handle = open_file(request, args.fh, True, &result)
    if handle == NULL:
        return result
    offset = lseek(handle.fd, <int64_t>args.offset, <int>args.whence)
    if offset < 0:
        result = -errno
    done_with(request, handle)
    return result if result < 0 else reply(request, &offset, sizeof(offset))


cdef int op_copy_file_range(Request *request) noexcept nogil:
    """COPY_FILE_RANGE and its 64-bit form: both answer with 8 bytes, a size or a 32-bit size and padding."""
    cdef CopyFileRangeIn args
    cdef Handle *source
    cdef Handle *target
    cdef int64_t from_offset
    cdef int64_t to_offset
    cdef uint64_t copied = 0
    cdef ssize_t moved
    cdef int result = 0
    cdef bint dropped
    memcpy(&args, request.args, sizeof(args))
    if request.server.settings.readonly:
        return -EROFS
    if args.flags != 0 or args.off_in > <uint64_t>INT64_MAX or args.off_out > <uint64_t>INT64_MAX:
        return -EINVAL
    source = open_file(request, args.fh_in, True, &result)
    if source == NULL:
        return result
    target = open_file(request, args.fh_out, True, &result)
    if target != NULL:
        from_offset = <int64_t>args.off_in
        to_offset = <int64_t>args.off_out
        dropped = fsetid_drop() if kills_setid(request) else False
        handle_written(&request.server.handles, target)
        result = capability_drop(request.server, target.fd)
        if result == 0:
            moved = copy_file_range(
                source.fd, &from_offset, target.fd, &to_offset, args.len if args.len < COPY_AT_ONCE else COPY_AT_ONCE, 0
            )
            if moved < 0:
                result = -errno
            else:
                copied = <uint64_t>moved
        fsetid_restore(dropped)
        done_with(request, target)
    done_with(request, source)
    return result if result < 0 else reply(request, &copied, sizeof(copied))


cdef int op_syncfs(Request *request) noexcept nogil:
    """SYNCFS of the file system that the nodeid lies on: the guest sends it for each of its super blocks. The root's is also that of
    all mounts that are not announced, or to a guest that knows of none.
    """
    cdef Server *server = request.server
    cdef Inode *inode = inode_get(&server.inodes, request.head.nodeid)
    cdef int result = 0
    cdef int fd
    cdef int lasting
    if inode == NULL:
        return -ENOENT
    request.may_block(request)
    # The mount stays in the table as long as the inode is pinned.
    lasting = server.inodes.mounts[inode.mount].sync_fd
    if inode.id == 1:
        result = mounts_sync(&server.inodes)
    elif lasting >= 0 and syncfs(lasting) < 0:
        result = -errno
    if lasting < 0 and result == 0:
        fd = inode_open(&server.inodes, inode, O_RDONLY | O_NONBLOCK)
        if fd < 0:
            result = fd
        else:
            if syncfs(fd) < 0:
                result = -errno
            close(fd)
    inode_put(&server.inodes, inode)
    return result


cdef int op_ioctl(Request *request) noexcept nogil:
    """IOCTL: inode flags and project ids of regular files and directories; nothing else passes, so that no driver is reached.

    The setting forms only with --allow-set-flags: an immutable file or another project id could leave a quota.
    """
    cdef Server *server = request.server
    cdef IoctlIn args
    cdef IoctlOut out
    cdef Handle *handle
    cdef char data[FSXATTR_SIZE]
    cdef uint32_t size
    cdef bint setting
    cdef int result = 0
    memcpy(&args, request.args, sizeof(args))
    if args.cmd == FS_IOC_GETFLAGS or args.cmd == FS_IOC_SETFLAGS:
        size = 4                        # an int, whatever the number says (ioctl_iflags(2))
    elif args.cmd == FS_IOC_FSGETXATTR or args.cmd == FS_IOC_FSSETXATTR:
        size = FSXATTR_SIZE
    else:
        return -ENOTTY
    setting = args.cmd == FS_IOC_SETFLAGS or args.cmd == FS_IOC_FSSETXATTR
    if setting and server.settings.readonly:
        return -EROFS
    if setting and not server.settings.allow_set_flags:
        return -EPERM
    memset(data, 0, sizeof(data))
    if setting:
        if args.in_size < size or args.in_size > request.args_length - sizeof(args):
            return -EINVAL
        memcpy(data, request.args + sizeof(args), size)
    elif args.out_size < size:
        return -EINVAL
    handle = open_file(request, args.fh, False, &result)
    if handle == NULL:
        return result
    if ioctl(handle.fd, args.cmd, data) < 0:
        result = -errno
    done_with(request, handle)
    if result < 0:
        return result
    memset(&out, 0, sizeof(out))
    result = reply(request, &out, sizeof(out))
    if result == 0 and not setting:
        result = reply(request, data, size)
    return result
