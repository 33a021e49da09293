"""INIT and DESTROY: what guest and daemon agree on, and its end."""

from libc.errno cimport EPROTO
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ferryfs.engine.events cimport EVENT_BAD_REQUEST, event_post
from ferryfs.engine.fuse_abi cimport (
    FUSE_KERNEL_MINOR_VERSION, FUSE_KERNEL_VERSION, FUSE_OLDEST_MINOR, InitIn, InitOut,
)
from ferryfs.engine.handles cimport handles_clear
from ferryfs.engine.inodes cimport inodes_clear
from ferryfs.engine.request cimport reply
from ferryfs.engine.server cimport (
    INIT_ALLOW_IDMAP, INIT_ASYNC_DIO, INIT_ASYNC_READ, INIT_ATOMIC_O_TRUNC, INIT_AUTO_INVAL_DATA, INIT_BIG_WRITES,
    INIT_CREATE_SUPP_GROUP, INIT_DIRECT_IO_ALLOW_MMAP, INIT_DONT_MASK, INIT_DO_READDIRPLUS, INIT_HANDLE_KILLPRIV_V2,
    INIT_HAS_IOCTL_DIR, INIT_INIT_EXT, INIT_MAX_PAGES, INIT_PARALLEL_DIROPS, INIT_POSIX_ACL, INIT_READDIRPLUS_AUTO,
    INIT_SECURITY_CTX, INIT_SETXATTR_EXT, INIT_SUBMOUNTS, INIT_WRITEBACK_CACHE, MAX_PAGES, MAX_WRITE, TERNARY_ALWAYS,
    TERNARY_NEVER, Request, Server,
)


cdef enum:
    # Requests that a guest may have under way in the background, as virtiofsd: no limit of our own.
    MAX_BACKGROUND = 65535
    CONGESTION_THRESHOLD = 49149        # three quarters of it


cdef uint64_t wanted(const Server *server) noexcept nogil:
    """The INIT flags that hold when the guest offers them; wire/fuse.py has a line for each with its reason."""
    cdef uint64_t flags = (
        INIT_ASYNC_READ | INIT_ATOMIC_O_TRUNC | INIT_BIG_WRITES | INIT_AUTO_INVAL_DATA | INIT_ASYNC_DIO
        | INIT_PARALLEL_DIROPS | INIT_HAS_IOCTL_DIR | INIT_MAX_PAGES | INIT_INIT_EXT
    )
    flags |= INIT_CREATE_SUPP_GROUP | INIT_ALLOW_IDMAP
    if server.settings.readdirplus:
        flags |= INIT_DO_READDIRPLUS | INIT_READDIRPLUS_AUTO
    if server.settings.writeback:
        flags |= INIT_WRITEBACK_CACHE
    if server.settings.announce_submounts:
        flags |= INIT_SUBMOUNTS
    if server.settings.killpriv_v2:
        flags |= INIT_HANDLE_KILLPRIV_V2
    if server.settings.posix_acl != TERNARY_NEVER:
        flags |= INIT_POSIX_ACL | INIT_DONT_MASK | INIT_SETXATTR_EXT
    if server.settings.security_label != TERNARY_NEVER:
        flags |= INIT_SECURITY_CTX
    if server.settings.allow_mmap:
        flags |= INIT_DIRECT_IO_ALLOW_MMAP
    return flags


cdef void session_end(Server *server) noexcept nogil:
    """Drops all that the guest held. Requests still under way finish on what they use."""
    server.session.ready = False
    handles_clear(&server.handles, &server.inodes)
    inodes_clear(&server.inodes)


cdef int op_init(Request *request) noexcept nogil:
    """INIT. A second one on the same connection is a guest that was rebooted: it starts with nothing."""
    cdef Server *server = request.server
    cdef InitIn args
    cdef InitOut out
    cdef uint64_t flags
    cdef uint64_t offered
    memset(&args, 0, sizeof(args))
    memcpy(&args, request.args, request.args_length if request.args_length < sizeof(args) else sizeof(args))
    memset(&out, 0, sizeof(out))
    out.major = FUSE_KERNEL_VERSION
    out.minor = FUSE_KERNEL_MINOR_VERSION
    if args.major < FUSE_KERNEL_VERSION or (args.major == FUSE_KERNEL_VERSION and args.minor < FUSE_OLDEST_MINOR):
        event_post(&server.events, EVENT_BAD_REQUEST, request.queue, EPROTO, "INIT: the guest's FUSE is older than 7.27")
        return -EPROTO
    if args.major > FUSE_KERNEL_VERSION:
        # It asks again with our version.
        return reply(request, &out, sizeof(out))
    session_end(server)
    offered = args.flags
    if args.flags & INIT_INIT_EXT:
        offered |= <uint64_t>args.flags2 << 32
    flags = wanted(server) & offered
    if server.settings.posix_acl == TERNARY_ALWAYS and not flags & INIT_POSIX_ACL:
        event_post(&server.events, EVENT_BAD_REQUEST, request.queue, EPROTO, "INIT: the guest can't do --posix-acl")
        return -EPROTO
    if server.settings.security_label == TERNARY_ALWAYS and not flags & INIT_SECURITY_CTX:
        event_post(&server.events, EVENT_BAD_REQUEST, request.queue, EPROTO, "INIT: the guest can't do --security-label")
        return -EPROTO
    if flags & INIT_POSIX_ACL == 0:
        # Both go with it: virtiofsd, after a migration, knows of them by POSIX_ACL alone.
        flags &= ~<uint64_t>(INIT_DONT_MASK | INIT_SETXATTR_EXT)
    server.session.major = args.major
    server.session.minor = args.minor if args.minor < FUSE_KERNEL_MINOR_VERSION else FUSE_KERNEL_MINOR_VERSION
    server.session.flags = flags
    server.session.max_readahead = args.max_readahead
    server.session.max_write = MAX_WRITE
    server.session.ready = True
    out.max_readahead = args.max_readahead
    out.flags = <uint32_t>flags
    out.flags2 = <uint32_t>(flags >> 32)
    out.max_background = MAX_BACKGROUND
    out.congestion_threshold = CONGESTION_THRESHOLD
    out.max_write = MAX_WRITE
    out.time_gran = 1
    out.max_pages = MAX_PAGES
    return reply(request, &out, sizeof(out))


cdef int op_destroy(Request *request) noexcept nogil:
    session_end(request.server)
    return 0
