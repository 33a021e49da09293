# The FUSE server: what a request is answered from, and the request itself. No transport: a chain comes in, a length goes out.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from ferryfs.engine.events cimport EventLog
from ferryfs.engine.fuse_abi cimport InHeader
from ferryfs.engine.handles cimport HandleTable
from ferryfs.engine.inodes cimport InodeTable
from ferryfs.engine.policy cimport Policy
from ferryfs.ring.chain cimport Chain, iovec


cdef enum:
    MAX_ARGS = 96 * 1024        # of a request but WRITE's data: SETXATTR's 64 KiB value and a name, with room
    SCRATCH = 128 * 1024        # of a reply that is built before it is copied: directory entries, a 64 KiB xattr
    MAX_IOVECS = 1024           # IOV_MAX of Linux
    MAX_PAGES = 256             # 1 MiB requests, as virtiofsd
    MAX_WRITE = 1 << 20


cdef enum:
    CACHE_NEVER = 0
    CACHE_METADATA = 1
    CACHE_AUTO = 2
    CACHE_ALWAYS = 3

cdef enum:                      # of --posix-acl, --security-label
    TERNARY_NEVER = 0
    TERNARY_AUTO = 1
    TERNARY_ALWAYS = 2


# From the options; never changes.
cdef struct Settings:
    int cache
    uint64_t entry_seconds      # of validity that the guest is told
    uint32_t entry_nanoseconds
    uint64_t negative_seconds
    uint32_t negative_nanoseconds
    int readonly
    int writeback
    int allow_direct_io
    int allow_mmap
    int readdirplus
    int announce_submounts
    int xattr
    int posix_acl
    int security_label
    int killpriv_v2
    int preserve_noatime
    int allow_set_flags


# Negotiated by INIT. Written while the guest has nothing else under way (INIT, a load); read by all.
cdef struct Session:
    int ready
    uint32_t major
    uint32_t minor              # the guest's
    uint64_t flags              # FUSE_… of both words that hold
    uint32_t max_readahead
    uint32_t max_write


cdef struct Server:
    Settings settings
    Session session
    InodeTable inodes
    HandleTable handles
    EventLog events
    uint64_t limit_told_ns      # when the guest's ENFILE was last told of; without a lock: once too often does no harm
    Policy policy
    int proc_fd                 # /proc/self/fd of this process; not ours to close
    uint32_t own_uid
    uint32_t own_gid


# One request from head to answer; lives on the stack of the worker that serves it.
cdef struct Request:
    Server *server
    Chain *chain
    InHeader head
    char *args                  # a private copy of what follows the header (but WRITE's data), with a NUL behind it
    uint32_t args_length
    uint32_t room               # bytes that fit behind the out header
    uint32_t reply_length       # bytes written there
    uint64_t touched            # writable bytes that may have been changed, when that is more than the answer (a failed READ)
    uint8_t *scratch            # SCRATCH bytes
    iovec *iovecs               # MAX_IOVECS
    int queue                   # for log lines
    int settled                 # the thread has a working directory and a umask of its own (creds.settle)
    int patient                 # it was put off: it is to be served now, however long it takes
    int finishers               # with PUT_OFF: how many threads at once are worth it for requests of its kind
    void *worker
    void (*may_block)(Request *) noexcept nogil     # called before a system call that is known to wait
    bint (*may_put_off)(Request *) noexcept nogil   # whether another thread had better serve it (PUT_OFF); not when `patient`


ctypedef int (*Handler)(Request *) noexcept nogil


cdef enum:
    PUT_OFF = -0x10000          # of a handler: nothing is answered, serve it again where it may wait. No errno is that low
    NOT_SERVED = -0x10001       # of a handler: the guest is told that there is no such request (ENOSYS), and sends no other of its kind
    SERVED_LATER = 0xffffffff   # of serve(): the same


cdef enum:
    OUT_HEADER = 16
    IN_HEADER = 40

# FUSE INIT flags, both words (include/uapi/linux/fuse.h).
cdef enum:
    INIT_ASYNC_READ = 1 << 0
    INIT_ATOMIC_O_TRUNC = 1 << 3
    INIT_BIG_WRITES = 1 << 5
    INIT_DONT_MASK = 1 << 6
    INIT_AUTO_INVAL_DATA = 1 << 12
    INIT_DO_READDIRPLUS = 1 << 13
    INIT_READDIRPLUS_AUTO = 1 << 14
    INIT_ASYNC_DIO = 1 << 15
    INIT_WRITEBACK_CACHE = 1 << 16
    INIT_PARALLEL_DIROPS = 1 << 18
    INIT_HAS_IOCTL_DIR = 1 << 11
    INIT_POSIX_ACL = 1 << 20
    INIT_MAX_PAGES = 1 << 22
    INIT_SUBMOUNTS = 1 << 27
    INIT_HANDLE_KILLPRIV_V2 = 1 << 28
    INIT_SETXATTR_EXT = 1 << 29
    INIT_INIT_EXT = 1 << 30

cdef extern from *:
    """
    #define INIT_SECURITY_CTX (1ULL << 32)
    #define INIT_CREATE_SUPP_GROUP (1ULL << 34)
    #define INIT_DIRECT_IO_ALLOW_MMAP (1ULL << 36)
    #define INIT_ALLOW_IDMAP (1ULL << 40)
    """
    uint64_t INIT_SECURITY_CTX
    uint64_t INIT_CREATE_SUPP_GROUP
    uint64_t INIT_DIRECT_IO_ALLOW_MMAP
    uint64_t INIT_ALLOW_IDMAP
