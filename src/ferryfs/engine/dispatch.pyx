"""From a chain to an answer, by one table. Knows no transport: what is under the chain, and who is told, is the worker's business."""

from libc.errno cimport EINVAL, EIO, EMFILE, ENFILE, ENOSYS, EOPNOTSUPP
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from ferryfs.engine.clock cimport now_ns
from ferryfs.engine.events cimport EVENT_BAD_REQUEST, EVENT_FILE_LIMIT, event_post
from ferryfs.engine.fuse_abi cimport *
from ferryfs.engine.ops_attrs cimport op_access, op_getattr, op_setattr, op_statfs, op_statx
from ferryfs.engine.ops_create cimport op_create, op_mkdir, op_mknod, op_symlink, op_tmpfile
from ferryfs.engine.ops_dirs cimport op_readdir, op_readdirplus
from ferryfs.engine.ops_files cimport op_copy_file_range, op_fallocate, op_fsync, op_ioctl, op_lseek, op_syncfs
from ferryfs.engine.ops_io cimport op_read, op_write
from ferryfs.engine.ops_links cimport op_link, op_readlink, op_rename, op_rename2, op_rmdir, op_unlink
from ferryfs.engine.ops_lookup cimport op_batch_forget, op_forget, op_lookup
from ferryfs.engine.ops_open cimport op_flush, op_open, op_opendir, op_release
from ferryfs.engine.ops_session cimport op_destroy, op_init
from ferryfs.engine.ops_xattrs cimport op_getxattr, op_listxattr, op_removexattr, op_setxattr
from ferryfs.engine.server cimport IN_HEADER, MAX_ARGS, NOT_SERVED, OUT_HEADER, PUT_OFF, SERVED_LATER, Handler, Request, Server
from ferryfs.engine.sys cimport snprintf
from ferryfs.ring.chain cimport chain_read, chain_write


cdef enum:
    SILENT = 1                  # no answer, not even an error
    BEFORE_INIT = 2             # allowed without a session
    OPTIONAL = 8                # not every file system has it, and programs know how to do without
    SLOW = 4                    # likely to take long: what is answered already is announced first


cdef enum:
    UNIQUE_END = 16             # bytes of fuse_in_header up to and with `unique`


cdef struct Operation:
    Handler handler             # NULL: ENOSYS, on purpose (wire/fuse.py has the reason)
    uint32_t takes              # bytes of arguments at least
    uint32_t gives              # bytes of room for the answer at least, asked for before anything is done
    int flags


cdef Operation operations[OP_END]


cdef void operation(int opcode, Handler handler, uint32_t takes, uint32_t gives, int flags = 0) noexcept:
    operations[opcode].handler = handler
    operations[opcode].takes = takes
    operations[opcode].gives = gives
    operations[opcode].flags = flags


operation(OP_LOOKUP, op_lookup, 2, sizeof(EntryOut))
operation(OP_FORGET, op_forget, 8, 0, SILENT | BEFORE_INIT)
operation(OP_GETATTR, op_getattr, sizeof(GetattrIn), sizeof(AttrOut))
operation(OP_SETATTR, op_setattr, sizeof(SetattrIn), sizeof(AttrOut))
operation(OP_READLINK, op_readlink, 0, 0)
operation(OP_SYMLINK, op_symlink, 4, sizeof(EntryOut))
operation(OP_MKNOD, op_mknod, sizeof(MknodIn) + 2, sizeof(EntryOut))
operation(OP_MKDIR, op_mkdir, sizeof(MkdirIn) + 2, sizeof(EntryOut))
operation(OP_UNLINK, op_unlink, 2, 0)
operation(OP_RMDIR, op_rmdir, 2, 0)
operation(OP_RENAME, op_rename, 12, 0)
operation(OP_LINK, op_link, 10, sizeof(EntryOut))
operation(OP_OPEN, op_open, sizeof(OpenIn), sizeof(OpenOut))
operation(OP_READ, op_read, sizeof(ReadIn), 0)
operation(OP_WRITE, op_write, sizeof(ReadIn), sizeof(WriteOut))
operation(OP_STATFS, op_statfs, 0, sizeof(StatfsOut))
operation(OP_RELEASE, op_release, sizeof(ReleaseIn), 0)
operation(OP_FSYNC, op_fsync, sizeof(FsyncIn), 0, SLOW)
operation(OP_SETXATTR, op_setxattr, 8, 0, OPTIONAL)
operation(OP_GETXATTR, op_getxattr, sizeof(GetxattrIn), 0, OPTIONAL)
operation(OP_LISTXATTR, op_listxattr, sizeof(GetxattrIn), 0, OPTIONAL)
operation(OP_REMOVEXATTR, op_removexattr, 2, 0, OPTIONAL)
operation(OP_FLUSH, op_flush, sizeof(ReleaseIn), 0)
operation(OP_INIT, op_init, 16, sizeof(InitOut), BEFORE_INIT)
operation(OP_OPENDIR, op_opendir, sizeof(OpenIn), sizeof(OpenOut))
operation(OP_READDIR, op_readdir, sizeof(ReadIn), 0)
operation(OP_RELEASEDIR, op_release, sizeof(ReleaseIn), 0)
operation(OP_FSYNCDIR, op_fsync, sizeof(FsyncIn), 0, SLOW)
operation(OP_ACCESS, op_access, 8, 0)
operation(OP_CREATE, op_create, sizeof(CreateIn) + 2, sizeof(EntryOut) + sizeof(OpenOut))
operation(OP_DESTROY, op_destroy, 0, 0, BEFORE_INIT)
operation(OP_IOCTL, op_ioctl, sizeof(IoctlIn), sizeof(IoctlOut), OPTIONAL)
operation(OP_BATCH_FORGET, op_batch_forget, 8, 0, SILENT | BEFORE_INIT)
operation(OP_FALLOCATE, op_fallocate, sizeof(FallocateIn), 0, OPTIONAL | SLOW)
operation(OP_READDIRPLUS, op_readdirplus, sizeof(ReadIn), 0)
operation(OP_RENAME2, op_rename2, sizeof(Rename2In) + 4, 0, OPTIONAL)
operation(OP_LSEEK, op_lseek, sizeof(LseekIn), 8, OPTIONAL)
operation(OP_COPY_FILE_RANGE, op_copy_file_range, sizeof(CopyFileRangeIn), 8, OPTIONAL | SLOW)
operation(OP_SYNCFS, op_syncfs, 8, 0, SLOW)
operation(OP_TMPFILE, op_tmpfile, sizeof(CreateIn) + 2, sizeof(EntryOut) + sizeof(OpenOut), OPTIONAL)
operation(OP_STATX, op_statx, sizeof(StatxIn), 32 + 256, OPTIONAL)
operation(OP_COPY_FILE_RANGE_64, op_copy_file_range, sizeof(CopyFileRangeIn), 8, OPTIONAL | SLOW)


cdef enum:
    BIG = 64 * 1024             # a transfer of this many bytes takes longer than an interrupt

cdef uint64_t LIMIT_TOLD_EVERY_NS = 60 * 1000000000


cdef bint is_slow(const Request *request) noexcept nogil:
    """Whether what lies in the chain is likely to keep its worker, so that finished answers had better be announced now."""
    cdef uint32_t opcode = 0
    if request.chain.readable_bytes + request.chain.writable_bytes > BIG:
        return True
    chain_read(request.chain, 4, &opcode, sizeof(opcode))
    return opcode < OP_END and operations[opcode].flags & SLOW


cdef void complain(Request *request, const char *what) noexcept nogil:
    cdef char text[96]
    snprintf(text, sizeof(text), "opcode %u: %s", request.head.opcode, what)
    event_post(&request.server.events, EVENT_BAD_REQUEST, request.queue, EINVAL, text)


cdef void tell_of_limit(Server *server) noexcept nogil:
    """Once a minute: a guest that has no file left asks again and again."""
    cdef uint64_t now = now_ns()
    if server.limit_told_ns == 0 or now - server.limit_told_ns > LIMIT_TOLD_EVERY_NS:
        server.limit_told_ns = now
        event_post(&server.events, EVENT_FILE_LIMIT, -1, ENFILE, "")


cdef int run(Request *request, const Operation *op) noexcept nogil:
    """Takes the arguments and calls the handler: 0 or -errno."""
    cdef uint64_t length = request.head.len - IN_HEADER
    if op.handler == NULL:
        return NOT_SERVED
    if not request.server.session.ready and not op.flags & BEFORE_INIT:
        return -EIO
    if length < op.takes:
        complain(request, "arguments too short")
        return -EINVAL
    if request.room < op.gives:
        complain(request, "too little room for the answer")
        return -EINVAL
    # WRITE's data stays where it is.
    if request.head.opcode == OP_WRITE:
        length = op.takes
    elif length > MAX_ARGS:
        complain(request, "arguments too long")
        return -EINVAL
    chain_read(request.chain, IN_HEADER, request.args, length)
    request.args[length] = 0
    request.args_length = <uint32_t>length
    return op.handler(request)


cdef uint32_t serve(Request *request) noexcept nogil:
    """Serves the request in request.chain; how many writable bytes the answer has (0: there is none), or SERVED_LATER.

    A request that makes no sense gets an error where the guest left room for one, and is dropped otherwise; both are noted.
    """
    cdef const Operation *op = NULL
    cdef OutHeader out
    cdef uint64_t writable = request.chain.writable_bytes
    cdef uint64_t got
    cdef int result
    request.reply_length = 0
    request.touched = 0
    request.args_length = 0
    request.room = <uint32_t>(writable - OUT_HEADER) if writable >= OUT_HEADER else 0
    memset(&request.head, 0, sizeof(request.head))
    got = chain_read(request.chain, 0, &request.head, IN_HEADER)
    if got < IN_HEADER:
        complain(request, "no whole header")
        if got < UNIQUE_END:
            request.head.unique = 0     # half of it names another request
        result = -EINVAL
    elif request.head.len < IN_HEADER or request.head.len > request.chain.readable_bytes:
        complain(request, "a length that is not the request's")
        result = -EINVAL
    elif request.head.opcode >= OP_END:
        result = NOT_SERVED
    else:
        op = &operations[request.head.opcode]
        if not op.flags & SILENT and writable < OUT_HEADER:
            complain(request, "no room for an answer")
            return 0
        result = run(request, op)
        if result == PUT_OFF:
            return SERVED_LATER
        if op.flags & SILENT:
            return 0
    if writable < OUT_HEADER:
        return 0
    if result == NOT_SERVED:
        result = -ENOSYS
    elif result == -ENOSYS:
        # The host's word on this one call. A guest would send no other of its kind, and take each FSYNC for done.
        result = -EOPNOTSUPP if op != NULL and op.flags & OPTIONAL else -EIO
    # EMFILE would tell the guest's process that it has too many files open itself.
    if result == -EMFILE:
        result = -ENFILE
    if result < 0:
        if result == -ENFILE:
            tell_of_limit(request.server)
        if request.touched < request.reply_length + OUT_HEADER:
            request.touched = request.reply_length + OUT_HEADER
        request.reply_length = 0
    out.len = OUT_HEADER + request.reply_length
    out.error = result
    out.unique = request.head.unique
    chain_write(request.chain, 0, &out, sizeof(out))
    return out.len
