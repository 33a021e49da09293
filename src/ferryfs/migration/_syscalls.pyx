# cython: language_level=3
"""System calls that the standard library lacks, as plain functions: file handles, statx, file-system identity, openat2.

Each raises OSError with the name where the call fails, and lets other threads run meanwhile: on a network file system
any of them may take long. Compiled rather than by ctypes, which can't be loaded once seccomp is in force.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

import os

from ferryfs.engine.inode_fds cimport open_by_handle
from ferryfs.engine.sys cimport file_handle

cdef extern from "<fcntl.h>" nogil:
    int c_name_to_handle_at "name_to_handle_at"(int, const char *, file_handle *, int *, int)

cdef extern from "<dlfcn.h>" nogil:
    void *dlsym(void *, const char *)

ctypedef int (*malloc_trim_t)(size_t) noexcept nogil

cdef extern from "<sys/stat.h>" nogil:
    struct statx_timestamp:
        int64_t tv_sec
        uint32_t tv_nsec
    struct c_statx "statx":
        uint32_t stx_mask
        uint64_t stx_attributes
        uint32_t stx_nlink
        uint32_t stx_uid
        uint32_t stx_gid
        uint32_t stx_mode
        uint64_t stx_ino
        uint64_t stx_size
        statx_timestamp stx_atime
        statx_timestamp stx_btime
        statx_timestamp stx_ctime
        statx_timestamp stx_mtime
        uint32_t stx_rdev_major
        uint32_t stx_rdev_minor
        uint32_t stx_dev_major
        uint32_t stx_dev_minor
        uint64_t stx_mnt_id
    int call_statx "statx"(int, const char *, int, unsigned int, c_statx *)

cdef extern from "<sys/vfs.h>" nogil:
    struct c_fsid "fsid_t":
        int __val[2]
    struct c_statfs "statfs":
        long f_type
        c_fsid f_fsid
        long f_namelen
    int c_fstatfs "fstatfs"(int, c_statfs *)

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int, unsigned long, ...)

cdef extern from "<unistd.h>" nogil:
    long syscall(long, ...)
    int call_syncfs "syncfs"(int)

cdef extern from *:
    """
    #include <sys/syscall.h>
    #include <linux/openat2.h>
    #define FERRY_HANDLE_BYTES 128
    /* Kernel 6.9; spelled out because older headers lack it. */
    struct ferry_fsuuid { unsigned char len; unsigned char uuid[16]; };
    #define FERRY_GETFSUUID _IOR(0x15, 0, struct ferry_fsuuid)
    struct ferry_handle { struct file_handle head; unsigned char bytes[FERRY_HANDLE_BYTES]; };
    """
    const int FERRY_HANDLE_BYTES
    const unsigned long FERRY_GETFSUUID
    const long SYS_openat2
    const long SYS_getdents64
    struct ferry_fsuuid:
        uint8_t len
        uint8_t uuid[16]
    struct ferry_handle:
        file_handle head
        unsigned char bytes[128]
    struct open_how:
        uint64_t flags
        uint64_t mode
        uint64_t resolve


AT_EMPTY_PATH = 0x1000
AT_SYMLINK_NOFOLLOW = 0x100
AT_STATX_FORCE_SYNC = 0x2000
# Kernel 6.5: a handle for comparing only, which more file systems can give.
AT_HANDLE_FID = 0x200

STATX_BASIC = 0x7FF
STATX_BTIME = 0x800
STATX_MNT_ID = 0x1000

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10


class Statx:
    """What statx(2) gave; -1 for a birth time that the file system does not keep, and for an unknown mount."""

    __slots__ = (
        "atime_ns", "btime_ns", "ctime_ns", "dev", "gid", "ino", "mnt_id", "mode", "mtime_ns", "nlink", "rdev", "size",
        "uid",
    )


cdef object failure(object name):
    return OSError(errno, os.strerror(errno), os.fsdecode(name) if name else None)


cdef object nanoseconds(const statx_timestamp *when):
    return <object>when.tv_sec * 1_000_000_000 + when.tv_nsec


def name_to_handle_at(int dir_fd, bytes name, int flags):
    """name_to_handle_at(2): (handle_type, handle, mount_id). Empty ``name`` and AT_EMPTY_PATH: of the fd itself."""
    cdef ferry_handle handle
    cdef int mount_id = -1
    cdef int result
    cdef const char *path = name
    handle.head.handle_bytes = FERRY_HANDLE_BYTES
    with nogil:
        result = c_name_to_handle_at(dir_fd, path, &handle.head, &mount_id, flags)
    if result < 0:
        raise failure(name)
    return handle.head.handle_type, PyBytes_FromStringAndSize(<char *>handle.bytes, handle.head.handle_bytes), mount_id


def open_by_handle_at(int mount_fd, int handle_type, bytes handle, int flags):
    """open_by_handle_at(2), with O_CLOEXEC: the fd. ``mount_fd`` may be any open file of the mount, but not O_PATH.

    A handle longer than the kernel takes is EINVAL, as there.
    """
    cdef ferry_handle wanted
    cdef int fd
    cdef size_t length = len(handle)
    cdef const char *data = handle
    if length > <size_t>FERRY_HANDLE_BYTES:
        raise OSError(22, os.strerror(22))
    memset(&wanted, 0, sizeof(wanted))
    wanted.head.handle_bytes = <unsigned int>length
    wanted.head.handle_type = handle_type
    # SAFETY: length is at most FERRY_HANDLE_BYTES (checked above), the size of wanted.bytes.
    memcpy(wanted.bytes, data, length)
    with nogil:
        fd = open_by_handle(mount_fd, &wanted.head, flags)
    if fd < 0:
        raise OSError(-fd, os.strerror(-fd))
    return fd


def syncfs(int fd):
    """syncfs(2)."""
    cdef int result
    with nogil:
        result = call_syncfs(fd)
    if result < 0:
        raise failure(None)


def statx(int dir_fd, bytes name, int flags, unsigned int mask):
    """statx(2): a Statx."""
    cdef c_statx got
    cdef int result
    cdef const char *path = name
    memset(&got, 0, sizeof(got))
    with nogil:
        result = call_statx(dir_fd, path, flags, mask, &got)
    if result < 0:
        raise failure(name)
    found = Statx()
    found.mode = got.stx_mode
    found.nlink = got.stx_nlink
    found.uid = got.stx_uid
    found.gid = got.stx_gid
    found.ino = got.stx_ino
    found.size = got.stx_size
    found.atime_ns = nanoseconds(&got.stx_atime)
    found.mtime_ns = nanoseconds(&got.stx_mtime)
    found.ctime_ns = nanoseconds(&got.stx_ctime)
    found.btime_ns = nanoseconds(&got.stx_btime) if got.stx_mask & 0x800 else -1
    found.mnt_id = got.stx_mnt_id if got.stx_mask & 0x1000 else -1
    found.dev = os.makedev(got.stx_dev_major, got.stx_dev_minor)
    found.rdev = os.makedev(got.stx_rdev_major, got.stx_rdev_minor)
    return found


def file_system(int fd):
    """fstatfs(2): (f_type, f_fsid, f_namelen), f_fsid as one number, its first word the low half."""
    cdef c_statfs got
    cdef int result
    with nogil:
        result = c_fstatfs(fd, &got)
    if result < 0:
        raise failure(None)
    return (
        <uint32_t>got.f_type,
        <uint64_t><uint32_t>got.f_fsid.__val[0] | <uint64_t><uint32_t>got.f_fsid.__val[1] << 32,
        got.f_namelen,
    )


def file_system_uuid(int fd):
    """FS_IOC_GETFSUUID; empty where the kernel or the file system has none. ``fd`` must not be O_PATH."""
    cdef ferry_fsuuid got
    cdef int result
    memset(&got, 0, sizeof(got))
    with nogil:
        result = ioctl(fd, FERRY_GETFSUUID, &got)
    if result < 0:
        if errno in (25, 22, 95, 38):  # ENOTTY EINVAL EOPNOTSUPP ENOSYS
            return b""
        raise failure(None)
    return PyBytes_FromStringAndSize(<char *>got.uuid, min(got.len, <uint8_t>16))


def openat2(int dir_fd, bytes path, uint64_t flags, uint64_t resolve):
    """openat2(2) without creating anything, with O_CLOEXEC: the fd."""
    cdef open_how how
    cdef long fd
    cdef const char *name = path
    memset(&how, 0, sizeof(how))
    how.flags = flags | <uint64_t>os.O_CLOEXEC
    how.resolve = resolve
    with nogil:
        fd = syscall(SYS_openat2, dir_fd, name, &how, sizeof(how))
    if fd < 0:
        raise failure(path)
    return <int>fd


def read_directory(int fd, size_t most_bytes):
    """getdents64(2) from where ``fd`` stands to the end: [(offset behind it, inode number, kind, name)], "." and ".." too.

    Stops after ``most_bytes`` of entries as the kernel has them: then the list is not complete, and None is returned.
    """
    cdef char buffer[32768]
    cdef long got
    cdef long at
    cdef uint64_t ino = 0
    cdef int64_t following = 0
    cdef uint16_t length = 0
    cdef size_t total = 0
    entries = []
    while True:
        with nogil:
            got = syscall(SYS_getdents64, fd, buffer, sizeof(buffer))
        if got < 0:
            raise failure(None)
        if got == 0:
            return entries
        total += got
        if total > most_bytes:
            return None
        at = 0
        while at < got:
            # SAFETY: the kernel writes whole records; d_reclen leads from one to the next, up to `got`.
            memcpy(&ino, buffer + at, 8)
            memcpy(&following, buffer + at + 8, 8)
            memcpy(&length, buffer + at + 16, 2)
            entries.append((<uint64_t>following, ino, <uint8_t>buffer[at + 18], <bytes>(buffer + at + 19)))
            at += length


def give_memory_back():
    """malloc_trim(3): what was freed, and malloc keeps for later, is the kernel's again. Nothing without glibc."""
    cdef void *found = dlsym(NULL, b"malloc_trim")
    if found != NULL:
        with nogil:
            (<malloc_trim_t>found)(0)
