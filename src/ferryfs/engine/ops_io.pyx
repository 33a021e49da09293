"""READ and WRITE: straight between the file and guest memory, no copy.

A READ first takes what is in the host's page cache (RWF_NOWAIT). What is missing is read by calls that may wait, after the worker
has had the chance to hand its queue on; or, where reads are scattered, the disk is told to fetch it, and the READ is served again by
another thread that may wait for it: so all of a guest's cold reads are under way at once, and few threads have to wake.
A short answer is given for the end of the file only: the guest takes it for that.
"""

from libc.errno cimport EAGAIN, EBADF, EFBIG, EINTR, EINVAL, EIO, EISDIR, EOPNOTSUPP, EROFS, errno
from libc.stdint cimport INT64_MAX, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ferryfs.engine.creds cimport capability_drop, fsetid_drop, fsetid_restore
from ferryfs.engine.fuse_abi cimport FUSE_WRITE_CACHE, FUSE_WRITE_KILL_SUIDGID, ReadIn, WriteOut
from ferryfs.engine.handles cimport (
    HANDLE_DIR, HANDLE_NO_NOWAIT, Handle, handle_get, handle_put, handle_set_flags, handle_set_state, handle_written,
)
from ferryfs.engine.request cimport reply
from ferryfs.engine.server cimport INIT_WRITEBACK_CACHE, IN_HEADER, MAX_IOVECS, OUT_HEADER, PUT_OFF, Request, Server
from ferryfs.engine.sys cimport (
    F_GETFL, F_SETFL, O_APPEND, O_DIRECT, POSIX_FADV_WILLNEED, RWF_APPEND, RWF_NOWAIT, fcntl, posix_fadvise, pread, preadv2,
    pwrite, pwritev2,
)
from ferryfs.ring.chain cimport chain_slice, iovec


cdef enum:
    WRITE_DATA = IN_HEADER + 40         # where WRITE's data begins: behind fuse_in_header and fuse_write_in
    MAX_TRANSFER = 0x7ffff000           # what Linux moves in one call at most


cdef int follow_flags(Server *server, Handle *handle, uint32_t guest_flags) noexcept nogil:
    """Applies what the guest changed by fcntl(F_SETFL) since the file was opened: O_DIRECT on our fd, the rest noted.

    O_APPEND needs nothing on the fd: op_write asks the request. 0 or -errno.
    """
    cdef int flags = <int>guest_flags
    cdef int now
    if (flags ^ handle.flags) & (O_APPEND | O_DIRECT) == 0:
        return 0
    if (flags ^ handle.flags) & O_DIRECT and server.settings.allow_direct_io:
        now = fcntl(handle.fd, F_GETFL)
        if now < 0 or fcntl(handle.fd, F_SETFL, (now & ~O_DIRECT) | (flags & O_DIRECT)) < 0:
            return -errno
    handle_set_flags(
        &server.handles, handle, (handle.flags & ~(O_APPEND | O_DIRECT)) | (flags & (O_APPEND | O_DIRECT))
    )
    return 0


cdef bint lost_flags(Server *server, Handle *handle, uint32_t guest_flags) noexcept nogil:
    """Whether a write without O_DIRECT met an fd with it, from which it is taken now: then the write is to be tried again.

    1. a page is written back, so O_DIRECT goes off, 2. a direct READ or WRITE of the same file takes it on again, 3. the page's
    bytes are no whole blocks.
    """
    if guest_flags & <uint32_t>O_DIRECT or not fcntl(handle.fd, F_GETFL) & O_DIRECT:
        return False
    handle_set_flags(&server.handles, handle, handle.flags | O_DIRECT)
    return follow_flags(server, handle, guest_flags) == 0


cdef Handle *io_handle(Request *request, const ReadIn *args, int *error) noexcept nogil:
    """The open regular file of a READ or WRITE, or NULL and an error (negative)."""
    cdef Server *server = request.server
    cdef Handle *handle
    if args.offset > <uint64_t>INT64_MAX or args.size > <uint64_t>INT64_MAX - args.offset:
        error[0] = -EINVAL
        return NULL
    handle = handle_get(&server.handles, args.fh)
    if handle == NULL:
        error[0] = -EBADF
        return NULL
    if handle.fd < 0:
        error[0] = -handle.error
    elif handle.state & HANDLE_DIR:
        error[0] = -EISDIR
    else:
        error[0] = follow_flags(server, handle, args.flags)
    if error[0] < 0:
        handle_put(&server.handles, &server.inodes, handle)
        return NULL
    return handle


cdef inline ssize_t read_file(int fd, const iovec *windows, int count, long offset, int flags) noexcept nogil:
    """preadv2; one window without flags goes by pread, which has less to look at (0.1 us)."""
    if count == 1 and not flags:
        return pread(fd, windows.iov_base, windows.iov_len, offset)
    return preadv2(fd, windows, count, offset, flags)


cdef inline ssize_t write_file(int fd, const iovec *windows, int count, long offset, int flags) noexcept nogil:
    """pwritev2, as read_file."""
    if count == 1 and not flags:
        return pwrite(fd, windows.iov_base, windows.iov_len, offset)
    return pwritev2(fd, windows, count, offset, flags)


cdef bint fetch(Request *request, const Handle *handle, const ReadIn *args, bint in_sequence) noexcept nogil:
    """Has the disk read what a READ wants, without waiting for it; whether that is of use.

    In sequence it is not: the kernel reads ahead for who waits, and does not for who asks like this.
    """
    if in_sequence or request.patient:
        return False
    if handle.flags & O_DIRECT and request.server.settings.allow_direct_io:
        return False
    return posix_fadvise(handle.fd, <long>args.offset, args.size, POSIX_FADV_WILLNEED) == 0


cdef int op_read(Request *request) noexcept nogil:
    cdef Server *server = request.server
    cdef Handle *handle
    cdef ReadIn args
    cdef uint64_t done = 0
    cdef ssize_t got
    cdef int count
    cdef int flags
    cdef int result = 0
    cdef bint in_sequence
    memcpy(&args, request.args, sizeof(args))
    handle = io_handle(request, &args, &result)
    if handle == NULL:
        return result
    flags = 0 if handle.state & HANDLE_NO_NOWAIT else RWF_NOWAIT
    in_sequence = args.offset == handle.read_end
    handle.read_end = args.offset + args.size
    if args.size > request.room:
        args.size = request.room
    while done < args.size:
        count = chain_slice(request.chain, True, OUT_HEADER + done, args.size - done, request.iovecs, MAX_IOVECS)
        request.touched = OUT_HEADER + args.size
        got = read_file(handle.fd, request.iovecs, count, <long>(args.offset + done), flags)
        if got > 0:
            done += <uint64_t>got
            # Less than asked for, and nothing that could wait was tried: the next call says whether the file ends here.
            if flags and done < args.size and count < MAX_IOVECS:
                flags = 0
            continue
        if got == 0 and not flags:
            break
        if got == 0:
            # With RWF_NOWAIT 0 is the end of the file too, but not on every file system: ask once more.
            flags = 0
            continue
        if errno == EINTR:
            continue
        if flags and (errno == EAGAIN or errno == EOPNOTSUPP or errno == EINVAL):
            if errno == EAGAIN:
                # Alone in its ring it is not put off, but the disk is at work while the next leader is woken.
                if fetch(request, handle, &args, in_sequence) and done == 0 and request.may_put_off(request):
                    request.finishers = 1
                    result = PUT_OFF
                    break
                request.may_block(request)
            else:
                handle_set_state(&server.handles, handle, HANDLE_NO_NOWAIT)
            flags = 0
            continue
        # An error after some bytes is one all the same: a guest takes a short answer for the file's end, and cuts the file there.
        # Not so for what O_DIRECT can't go on with, where the file ends within a block.
        if done == 0 or errno != EINVAL or not handle.flags & O_DIRECT:
            result = -errno
        break
    handle_put(&server.handles, &server.inodes, handle)
    if result == 0:
        request.reply_length = <uint32_t>done
    return result


cdef int op_write(Request *request) noexcept nogil:
    """An answer is short where a program gets to know it. Of pages that are written back Linux looks at the error only, and takes
    them all for written.
    """
    cdef Server *server = request.server
    cdef Handle *handle
    cdef ReadIn args
    cdef WriteOut out
    cdef uint64_t done = 0
    cdef ssize_t put
    cdef int count
    cdef int flags = 0
    cdef int result = 0
    cdef bint dropped = False
    memcpy(&args, request.args, sizeof(args))
    if server.settings.readonly:
        return -EROFS
    if args.size > request.chain.readable_bytes - WRITE_DATA or args.size > request.head.len - WRITE_DATA:
        return -EINVAL
    if args.offset > <uint64_t>INT64_MAX or args.size > <uint64_t>INT64_MAX - args.offset:
        return -EFBIG
    handle = io_handle(request, &args, &result)
    if handle == NULL:
        return result
    # A page that is written back has its place, whatever the file's flags are now; a guest that keeps writes back knows the end.
    if args.flags & <uint32_t>O_APPEND and not args.io_flags & FUSE_WRITE_CACHE and not server.session.flags & INIT_WRITEBACK_CACHE:
        flags = RWF_APPEND
    if args.io_flags & FUSE_WRITE_KILL_SUIDGID:
        dropped = fsetid_drop()
    handle_written(&server.handles, handle)
    result = capability_drop(server, handle.fd)
    while result == 0:
        count = chain_slice(request.chain, False, WRITE_DATA + done, args.size - done, request.iovecs, MAX_IOVECS)
        put = write_file(handle.fd, request.iovecs, count, <long>(args.offset + done), flags)
        if put > 0:
            done += <uint64_t>put
            if done < args.size:
                continue
        elif put < 0:
            if errno == EINTR or (errno == EINVAL and lost_flags(server, handle, args.flags)):
                continue
            if done == 0 or args.io_flags & FUSE_WRITE_CACHE:
                result = -errno
        elif args.io_flags & FUSE_WRITE_CACHE:
            result = -EIO
        break
    fsetid_restore(dropped)
    handle_put(&server.handles, &server.inodes, handle)
    if result < 0:
        return result
    memset(&out, 0, sizeof(out))
    out.size = <uint32_t>done
    return reply(request, &out, sizeof(out))
