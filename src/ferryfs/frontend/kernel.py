"""The system calls of a FUSE mount that Python does not have: mount, umount2, syncfs, unshare, FUSE_DEV_IOC_CLONE."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
from typing import Final

from ferryfs.errors import OptionError, SetupError

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_NOATIME: Final = 1024
MS_REC: Final = 1 << 14
MS_PRIVATE: Final = 1 << 18
MNT_DETACH: Final = 2
CLONE_NEWNS: Final = 1 << 17
_FUSE_DEV_IOC_CLONE: Final = 0x8004E500

MOUNT_FLAGS: Final = {
    "ro": MS_RDONLY,
    "nosuid": MS_NOSUID,
    "nodev": MS_NODEV,
    "noexec": MS_NOEXEC,
    "noatime": MS_NOATIME,
}
"""What ``-o`` takes."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.unshare.argtypes = [ctypes.c_int]
_libc.syncfs.argtypes = [ctypes.c_int]


def open_device() -> int:
    """A descriptor of ``/dev/fuse``, not blocking. Raises SetupError."""
    try:
        return os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise SetupError(
            "There is no /dev/fuse on this machine: load the kernel module with `modprobe fuse`."
        ) from error
    except OSError as error:
        raise SetupError(f"/dev/fuse can't be opened ({error.strerror}): run this as root.") from error


def clone_device(fuse_fd: int) -> int:
    """One more channel to the kernel for the mount of ``fuse_fd``, with a queue of requests being worked on of its
    own.
    """
    fd = open_device()
    try:
        fcntl.ioctl(fd, _FUSE_DEV_IOC_CLONE, struct.pack("=I", fuse_fd))
    except OSError as error:
        os.close(fd)
        raise SetupError(f"The kernel gives no second channel to the mount: {error.strerror}.") from error
    return fd


def mount_fuse(source: str, mountpoint: str, fuse_fd: int, flags: int = 0) -> None:
    """Mounts ``fuse_fd`` as type ``fuse.ferryfs``; the type of the root is that of the mount point. Raises OptionError
    for a mount point that can't be one, SetupError for what the kernel refuses.
    """
    try:
        root_mode = stat.S_IFMT(os.stat(mountpoint).st_mode)
    except OSError as error:
        raise OptionError(_bad_mountpoint(mountpoint, error)) from error
    data = f"fd={fuse_fd},rootmode={root_mode:o},user_id={os.geteuid()},group_id={os.getegid()}"
    data += ",allow_other,default_permissions"
    result = _libc.mount(source.encode(), os.fsencode(mountpoint), b"fuse.ferryfs", flags, data.encode())
    if result:
        number = ctypes.get_errno()
        if number == errno.EPERM:
            raise SetupError(f"Mounting on {mountpoint} needs root: run this with sudo.")
        raise SetupError(f"The kernel does not mount on {mountpoint}: {os.strerror(number)}.")


def check_mountpoint(mountpoint: str) -> str:
    """The absolute path of a mount point that can be used. Raises OptionError with one sentence."""
    try:
        mode = os.stat(mountpoint).st_mode
    except OSError as error:
        raise OptionError(_bad_mountpoint(mountpoint, error)) from error
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise OptionError(f"The mount point {mountpoint} is neither a directory nor a regular file.")
    return os.path.realpath(mountpoint)


def unmount(mountpoint: str, *, detach: bool = False) -> None:
    """umount2(2). Raises OSError; EINVAL: nothing is mounted there (any more)."""
    if _libc.umount2(os.fsencode(mountpoint), MNT_DETACH if detach else 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), mountpoint)


def own_mounts() -> None:
    """Moves this thread, and all that it starts from now on, into a mount namespace of its own. Raises SetupError.

    A mount made there is in nobody else's way, and no other process that copies its namespace keeps it alive.
    """
    if _libc.unshare(CLONE_NEWNS) or _libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        raise SetupError(f"No mount namespace for the mounts ({os.strerror(ctypes.get_errno())}): run this as root.")


def sync_mount(mountpoint: str) -> None:
    """syncfs(2): writes back what the kernel still holds of a mount. Raises OSError."""
    fd = os.open(mountpoint, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), mountpoint)
    finally:
        os.close(fd)


def _bad_mountpoint(mountpoint: str, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return f"The mount point {mountpoint} does not exist: create it with `mkdir {mountpoint}`."
    if error.errno == errno.ENOTCONN:
        return f"A dead mount is left on {mountpoint}: remove it with `umount {mountpoint}`."
    return f"The mount point {mountpoint} can't be used: {error.strerror}."
