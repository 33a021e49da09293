# System calls and constants as this engine uses them, where Cython's own libc and posix packages lack them.
# Those that change credentials go through syscall(2): glibc's wrappers would change every thread of the process.
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t
from posix.time cimport timespec
from posix.types cimport gid_t, mode_t, off_t, uid_t

from ferryfs.ring.chain cimport iovec


cdef extern from "unistd.h" nogil:
    long syscall(long number, ...)
    int close(int fd)
    int dup(int fd)
    ssize_t read(int fd, void *buf, size_t count)
    ssize_t write(int fd, const void *buf, size_t count)
    ssize_t pread(int fd, void *buf, size_t count, off_t offset)
    ssize_t pwrite(int fd, const void *buf, size_t count, off_t offset)
    int fsync(int fd)
    int fdatasync(int fd)
    int syncfs(int fd)
    int ftruncate(int fd, off_t length)
    off_t lseek(int fd, off_t offset, int whence)
    int fchdir(int fd)
    int unlinkat(int dirfd, const char *path, int flags)
    int linkat(int olddirfd, const char *oldpath, int newdirfd, const char *newpath, int flags)
    int symlinkat(const char *target, int dirfd, const char *path)
    ssize_t readlinkat(int dirfd, const char *path, char *buf, size_t size)
    int fchownat(int dirfd, const char *path, uid_t uid, gid_t gid, int flags)
    ssize_t copy_file_range(int fd_in, int64_t *off_in, int fd_out, int64_t *off_out, size_t len, unsigned int flags)
    uid_t geteuid()
    gid_t getegid()

cdef extern from "fcntl.h" nogil:
    int openat(int dirfd, const char *path, int flags, ...)
    int fcntl(int fd, int cmd, ...)
    int fallocate(int fd, int mode, off_t offset, off_t len)
    int posix_fadvise(int fd, off_t offset, off_t len, int advice)
    int POSIX_FADV_WILLNEED
    struct file_handle:
        unsigned int handle_bytes
        int handle_type
    int open_by_handle_at(int mount_fd, file_handle *handle, int flags)
    int AT_FDCWD, AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, AT_SYMLINK_FOLLOW, AT_REMOVEDIR
    int O_RDONLY, O_WRONLY, O_RDWR, O_ACCMODE, O_CREAT, O_EXCL, O_TRUNC, O_APPEND, O_NONBLOCK, O_DIRECT, O_DIRECTORY
    int O_NOFOLLOW, O_CLOEXEC, O_PATH, O_SYNC, O_DSYNC, O_NOATIME, O_TMPFILE, O_NOCTTY
    int F_GETFL, F_SETFL, F_DUPFD_CLOEXEC

cdef extern from "stdio.h" nogil:
    int renameat2(int olddirfd, const char *old, int newdirfd, const char *new, unsigned int flags)
    int snprintf(char *buf, size_t size, const char *format, ...)

cdef extern from "sys/stat.h" nogil:
    # struct stat: what fstat(2) gives costs the host an eighth less than what statx(2) does.
    struct Stat "stat":
        uint64_t st_dev, st_ino, st_rdev, st_size, st_blocks
        uint32_t st_mode, st_nlink, st_uid, st_gid, st_blksize
        timespec st_atim, st_mtim, st_ctim
    int mkdirat(int dirfd, const char *path, mode_t mode)
    int mknodat(int dirfd, const char *path, mode_t mode, uint64_t dev)
    int fchmod(int fd, mode_t mode)
    int fchmodat(int dirfd, const char *path, mode_t mode, int flags)
    int utimensat(int dirfd, const char *path, const timespec *times, int flags)
    int futimens(int fd, const timespec *times)
    mode_t umask(mode_t mask)
    int UTIME_NOW, UTIME_OMIT
    int S_IFMT, S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK, S_ISUID, S_ISGID, S_IXGRP

cdef extern from "sys/sysmacros.h" nogil:
    uint64_t makedev(unsigned int major, unsigned int minor)

cdef extern from "sys/statvfs.h" nogil:
    struct statvfs_t "statvfs":
        unsigned long f_bsize, f_frsize, f_blocks, f_bfree, f_bavail, f_files, f_ffree, f_favail, f_fsid, f_flag, f_namemax
    int fstatvfs(int fd, statvfs_t *buf)

cdef extern from "sys/vfs.h" nogil:
    struct statfs_t "statfs":
        long f_type
    int fstatfs(int fd, statfs_t *buf)

cdef extern from "sys/uio.h" nogil:
    ssize_t preadv2(int fd, const iovec *iov, int count, off_t offset, int flags)
    ssize_t pwritev2(int fd, const iovec *iov, int count, off_t offset, int flags)

cdef extern from "sys/xattr.h" nogil:
    ssize_t getxattr(const char *path, const char *name, void *value, size_t size)
    ssize_t fgetxattr(int fd, const char *name, void *value, size_t size)
    ssize_t listxattr(const char *path, char *list, size_t size)
    int setxattr(const char *path, const char *name, const void *value, size_t size, int flags)
    int removexattr(const char *path, const char *name)
    int fremovexattr(int fd, const char *name)
    int fsetxattr(int fd, const char *name, const void *value, size_t size, int flags)
    int XATTR_CREATE, XATTR_REPLACE

cdef extern from "sys/ioctl.h" nogil:
    int ioctl(int fd, unsigned long request, ...)

cdef extern from "sys/syscall.h" nogil:
    long SYS_fstat, SYS_newfstatat, SYS_statx, SYS_name_to_handle_at, SYS_getdents64
    long SYS_setresuid, SYS_setresgid, SYS_setgroups, SYS_capget, SYS_capset

cdef extern from "sched.h" nogil:
    int unshare(int flags)
    int CLONE_FS

cdef extern from "sys/eventfd.h" nogil:
    int eventfd(unsigned int initval, int flags)
    int EFD_CLOEXEC, EFD_NONBLOCK

cdef enum:
    RWF_NOWAIT = 0x8
    RWF_APPEND = 0x10
    SYS_fchmodat2 = 452                 # Linux 6.6
    AT_HANDLE_FID = 0x200
    AT_HANDLE_MNT_ID_UNIQUE = 0x1       # Linux 6.12; the mount id is then 64 bit
    STATX_BASIC_STATS = 0x7ff
    STATX_BTIME = 0x800
    STATX_MNT_ID = 0x1000
    STATX_MNT_ID_UNIQUE = 0x4000        # Linux 6.8
    MAX_HANDLE_SIZE = 128               # MAX_HANDLE_SZ

cdef packed struct StatxTime:
    int64_t sec
    uint32_t nsec
    int32_t reserved

cdef packed struct Statx:               # struct statx; glibc's own lacks the newer fields on the oldest system we run on
    uint32_t mask
    uint32_t blksize
    uint64_t attributes
    uint32_t nlink
    uint32_t uid
    uint32_t gid
    uint16_t mode
    uint16_t spare0
    uint64_t ino
    uint64_t size
    uint64_t blocks
    uint64_t attributes_mask
    StatxTime atime
    StatxTime btime
    StatxTime ctime
    StatxTime mtime
    uint32_t rdev_major
    uint32_t rdev_minor
    uint32_t dev_major
    uint32_t dev_minor
    uint64_t mnt_id
    uint64_t spare[13]
