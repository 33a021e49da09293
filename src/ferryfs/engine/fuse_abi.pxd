# The FUSE protocol's structures as they lie in a request or a reply (include/uapi/linux/fuse.h, protocol 7.45).
# The numbers are our own and held against wire/fuse.py by a test: the header of an older distribution would lack some.
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t


cdef enum:
    FUSE_KERNEL_VERSION = 7
    FUSE_KERNEL_MINOR_VERSION = 45
    FUSE_OLDEST_MINOR = 27          # what the Linux virtiofs driver has required from its first version on (7.31), and below
    FUSE_ROOT_ID = 1
    FUSE_NAME_MAX = 255             # of the file systems that we pass through; FUSE allows 1024

cdef enum:
    OP_LOOKUP = 1
    OP_FORGET = 2
    OP_GETATTR = 3
    OP_SETATTR = 4
    OP_READLINK = 5
    OP_SYMLINK = 6
    OP_MKNOD = 8
    OP_MKDIR = 9
    OP_UNLINK = 10
    OP_RMDIR = 11
    OP_RENAME = 12
    OP_LINK = 13
    OP_OPEN = 14
    OP_READ = 15
    OP_WRITE = 16
    OP_STATFS = 17
    OP_RELEASE = 18
    OP_FSYNC = 20
    OP_SETXATTR = 21
    OP_GETXATTR = 22
    OP_LISTXATTR = 23
    OP_REMOVEXATTR = 24
    OP_FLUSH = 25
    OP_INIT = 26
    OP_OPENDIR = 27
    OP_READDIR = 28
    OP_RELEASEDIR = 29
    OP_FSYNCDIR = 30
    OP_ACCESS = 34
    OP_CREATE = 35
    OP_INTERRUPT = 36
    OP_DESTROY = 38
    OP_IOCTL = 39
    OP_BATCH_FORGET = 42
    OP_FALLOCATE = 43
    OP_READDIRPLUS = 44
    OP_RENAME2 = 45
    OP_LSEEK = 46
    OP_COPY_FILE_RANGE = 47
    OP_SYNCFS = 50
    OP_TMPFILE = 51
    OP_STATX = 52
    OP_COPY_FILE_RANGE_64 = 53
    OP_END = 54

cdef enum:
    FATTR_MODE = 1 << 0
    FATTR_UID = 1 << 1
    FATTR_GID = 1 << 2
    FATTR_SIZE = 1 << 3
    FATTR_ATIME = 1 << 4
    FATTR_MTIME = 1 << 5
    FATTR_FH = 1 << 6
    FATTR_ATIME_NOW = 1 << 7
    FATTR_MTIME_NOW = 1 << 8
    FATTR_CTIME = 1 << 10
    FATTR_KILL_SUIDGID = 1 << 11
    GETATTR_FH = 1 << 0
    FUSE_WRITE_CACHE = 1 << 0
    FUSE_WRITE_KILL_SUIDGID = 1 << 2
    FUSE_OPEN_KILL_SUIDGID = 1 << 0
    FOPEN_DIRECT_IO = 1 << 0
    FOPEN_KEEP_CACHE = 1 << 1
    FOPEN_CACHE_DIR = 1 << 3
    FOPEN_NOFLUSH = 1 << 5
    FUSE_ATTR_SUBMOUNT = 1 << 0
    FSYNC_FDATASYNC = 1 << 0
    FUSE_EXT_GROUPS = 32
    FUSE_MAX_NR_SECCTX = 31
    FUSE_IOCTL_DIR = 1 << 4
    FUSE_SETXATTR_ACL_KILL_SGID = 1 << 0

cdef packed struct InHeader:
    uint32_t len
    uint32_t opcode
    uint64_t unique
    uint64_t nodeid
    uint32_t uid
    uint32_t gid
    uint32_t pid
    uint16_t total_extlen
    uint16_t padding

cdef packed struct OutHeader:
    uint32_t len
    int32_t error
    uint64_t unique

cdef packed struct Attr:
    uint64_t ino
    uint64_t size
    uint64_t blocks
    uint64_t atime
    uint64_t mtime
    uint64_t ctime
    uint32_t atimensec
    uint32_t mtimensec
    uint32_t ctimensec
    uint32_t mode
    uint32_t nlink
    uint32_t uid
    uint32_t gid
    uint32_t rdev
    uint32_t blksize
    uint32_t flags

cdef packed struct EntryOut:
    uint64_t nodeid
    uint64_t generation
    uint64_t entry_valid
    uint64_t attr_valid
    uint32_t entry_valid_nsec
    uint32_t attr_valid_nsec
    Attr attr

cdef packed struct AttrOut:
    uint64_t attr_valid
    uint32_t attr_valid_nsec
    uint32_t dummy
    Attr attr

cdef packed struct InitIn:
    uint32_t major
    uint32_t minor
    uint32_t max_readahead
    uint32_t flags
    uint32_t flags2
    uint32_t unused[11]

cdef packed struct InitOut:
    uint32_t major
    uint32_t minor
    uint32_t max_readahead
    uint32_t flags
    uint16_t max_background
    uint16_t congestion_threshold
    uint32_t max_write
    uint32_t time_gran
    uint16_t max_pages
    uint16_t map_alignment
    uint32_t flags2
    uint32_t max_stack_depth
    uint16_t request_timeout
    uint16_t unused[11]

cdef packed struct GetattrIn:
    uint32_t getattr_flags
    uint32_t dummy
    uint64_t fh

cdef packed struct SetattrIn:
    uint32_t valid
    uint32_t padding
    uint64_t fh
    uint64_t size
    uint64_t lock_owner
    uint64_t atime
    uint64_t mtime
    uint64_t ctime
    uint32_t atimensec
    uint32_t mtimensec
    uint32_t ctimensec
    uint32_t mode
    uint32_t unused4
    uint32_t uid
    uint32_t gid
    uint32_t unused5

cdef packed struct MknodIn:
    uint32_t mode
    uint32_t rdev
    uint32_t umask
    uint32_t padding

cdef packed struct MkdirIn:
    uint32_t mode
    uint32_t umask

cdef packed struct Rename2In:
    uint64_t newdir
    uint32_t flags
    uint32_t padding

cdef packed struct OpenIn:
    uint32_t flags
    uint32_t open_flags

cdef packed struct CreateIn:
    uint32_t flags
    uint32_t mode
    uint32_t umask
    uint32_t open_flags

cdef packed struct OpenOut:
    uint64_t fh
    uint32_t open_flags
    int32_t backing_id

cdef packed struct ReleaseIn:
    uint64_t fh
    uint32_t flags
    uint32_t release_flags
    uint64_t lock_owner

cdef packed struct ReadIn:      # WRITE has the same shape
    uint64_t fh
    uint64_t offset
    uint32_t size
    uint32_t io_flags
    uint64_t lock_owner
    uint32_t flags
    uint32_t padding

cdef packed struct WriteOut:
    uint32_t size
    uint32_t padding

cdef packed struct FsyncIn:
    uint64_t fh
    uint32_t fsync_flags
    uint32_t padding

cdef packed struct SetxattrIn:
    uint32_t size
    uint32_t flags
    uint32_t setxattr_flags     # this and the next only with SETXATTR_EXT
    uint32_t padding

cdef packed struct GetxattrIn:
    uint32_t size
    uint32_t padding

cdef packed struct FallocateIn:
    uint64_t fh
    uint64_t offset
    uint64_t length
    uint32_t mode
    uint32_t padding

cdef packed struct LseekIn:
    uint64_t fh
    uint64_t offset
    uint32_t whence
    uint32_t padding

cdef packed struct CopyFileRangeIn:
    uint64_t fh_in
    uint64_t off_in
    uint64_t nodeid_out
    uint64_t fh_out
    uint64_t off_out
    uint64_t len
    uint64_t flags

cdef packed struct StatxIn:
    uint32_t getattr_flags
    uint32_t reserved
    uint64_t fh
    uint32_t sx_flags
    uint32_t sx_mask

cdef packed struct IoctlIn:
    uint64_t fh
    uint32_t flags
    uint32_t cmd
    uint64_t arg
    uint32_t in_size
    uint32_t out_size

cdef packed struct IoctlOut:
    int32_t result
    uint32_t flags
    uint32_t in_iovs
    uint32_t out_iovs

cdef packed struct ForgetOne:
    uint64_t nodeid
    uint64_t nlookup

cdef packed struct StatfsOut:
    uint64_t blocks
    uint64_t bfree
    uint64_t bavail
    uint64_t files
    uint64_t ffree
    uint32_t bsize
    uint32_t namelen
    uint32_t frsize
    uint32_t padding
    uint32_t spare[6]

cdef packed struct Dirent:
    uint64_t ino
    uint64_t off
    uint32_t namelen
    uint32_t type

cdef packed struct ExtHeader:
    uint32_t size
    uint32_t type
