"""The shared directory as file descriptors: what the serving process keeps of the host's file system, in each mode.

Some facts about /proc here. The engine reopens inodes through ``/proc/self/fd/N``, so it needs that directory after
the root has changed. ``/proc/self`` is the process that opens it, so it must be opened by the serving process, after
its last fork. The content of ``mountinfo`` depends on the root at the moment when it is opened, so that is opened
after the root has changed, through the directory that was opened before. From an O_PATH fd of ``/proc/self/fd`` one
could climb by ``..`` to everybody's ``/proc``; a detached clone of it (``open_tree(2)``) has nothing above itself.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from typing import Final, NamedTuple

from ferryfs.errors import OptionError, SetupError
from ferryfs.sandbox import _linux

_LOG = logging.getLogger("ferryfs.sandbox")

AT_FDCWD: Final = -100
AT_RECURSIVE: Final = 0x8000
OPEN_TREE_CLONE: Final = 1
OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC


class Confined(NamedTuple):
    """What is left to the serving process once it is confined. The descriptors are its own."""

    root_fd: int  # O_PATH, the shared directory or file
    proc_self_fd: int  # O_PATH, /proc/self/fd
    mountinfo_fd: int  # readable from the start, again after each lseek to 0
    mountinfo_prefix: str  # what stands before each path in mountinfo that lies in the share; "" for none


class ProcSelf(NamedTuple):
    """``/proc/self`` of the serving process, before the root changes."""

    directory_fd: int
    fd_directory_fd: int


def check_shared(path: str) -> bool:
    """Whether the share is a directory (True) or a regular file. Raises ``OptionError`` for anything else."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise OptionError(f"--shared-dir={path}: does not exist, create it first") from None
    except OSError as error:
        raise OptionError(f"--shared-dir={path}: can't be reached: {error.strerror}") from None
    if stat.S_ISDIR(mode):
        return True
    if stat.S_ISREG(mode):
        return False
    raise OptionError(f"--shared-dir={path}: is neither a directory nor a regular file")


def without_xattrs(path: str) -> str:
    """Why the file system of the share has no extended attributes for users; empty where it has them.

    Asked for one, because the list of none of them is empty everywhere.
    """
    try:
        os.getxattr(path, "user.ferryfs.check")
    except OSError as error:
        return "" if error.errno == errno.ENODATA else os.strerror(error.errno or errno.EIO)
    return ""


def open_proc_self(proc: str = "/proc") -> ProcSelf:
    """Open ``/proc/self`` and ``/proc/self/fd``. Raises ``SetupError`` where there is no proc file system."""
    try:
        directory = os.open(f"{proc}/self", os.O_PATH | os.O_DIRECTORY)
        try:
            fds = _linux.open_tree(directory, b"fd", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)
        except OSError:
            # Without CAP_SYS_ADMIN (or before Linux 5.2) the plain directory serves too.
            fds = os.open("fd", os.O_PATH | os.O_DIRECTORY, dir_fd=directory)
    except OSError as error:
        raise SetupError(f"{proc}/self can't be opened ({error.strerror}), mount a proc file system at /proc") from None
    return ProcSelf(directory, fds)


def open_mountinfo(proc: ProcSelf) -> int:
    """Open mountinfo as seen from the present root, and give up ``/proc/self``."""
    try:
        return os.open("mountinfo", os.O_RDONLY, dir_fd=proc.directory_fd)
    finally:
        os.close(proc.directory_fd)


def stay(shared_dir: str) -> Confined:
    """``--sandbox=none``."""
    root_fd = _open_root(shared_dir)
    proc = open_proc_self()
    return Confined(root_fd, proc.fd_directory_fd, open_mountinfo(proc), os.path.realpath(shared_dir).rstrip("/"))


def change_root(shared_dir: str) -> Confined:
    """``--sandbox=chroot``: the shared directory becomes the root of this process. For root only."""
    if not check_shared(shared_dir):
        raise OptionError(
            f"--sandbox=chroot: {shared_dir} is a file and can't be a root, write --sandbox=namespace or --sandbox=none"
        )
    proc = open_proc_self()
    root_fd = _open_root(shared_dir)
    try:
        os.fchdir(root_fd)
        os.chroot(".")
    except OSError as error:
        raise SetupError(
            f"--sandbox=chroot: chroot to {shared_dir} failed ({error.strerror}), it needs CAP_SYS_CHROOT; without it "
            "only --sandbox=none works"
        ) from None
    os.chdir("/")
    # What mountinfo shows is relative to the root at the time of opening, and mounts outside of it are left out.
    return Confined(root_fd, proc.fd_directory_fd, open_mountinfo(proc), "")


def _open_root(shared_dir: str) -> int:
    try:
        return os.open(shared_dir, os.O_PATH)
    except OSError as error:
        raise OptionError(f"--shared-dir={shared_dir}: can't be opened: {error.strerror}") from None


def close_leaked_files(keep: int | None, *, locked_too: bool = False) -> int:
    """Close what the parent left open by mistake; returns how many.

    What came through an exec has no FD_CLOEXEC, and whatever Python opens has it. 0, 1 and 2 are filled where
    missing, so that no file of the guest can ever become one of them.

    A file that this process holds a lock on was left open on purpose: libvirt locks its pid file in the name of the
    process that it starts, and sees by the lock whether the daemon lives. It stays, unless ``locked_too``.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # The lowest free number is the missing one.
            os.set_inheritable(os.open("/dev/null", os.O_RDWR), True)
    closed = 0
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd <= 2 or fd == keep:
            continue
        try:
            if os.get_inheritable(fd) and (locked_too or not _is_locked(fd)):
                os.close(fd)
                closed += 1
        except OSError:
            # The descriptor of the listing itself.
            continue
    return closed


def _is_locked(fd: int) -> bool:
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii", errors="replace") as lines:
        return any(line.startswith("lock:") for line in lines)


def drop_groups() -> None:
    """Leave the supplementary groups of whoever started us: they'd count at every access.

    A user namespace of a single id forbids it ("deny" in /proc/self/setgroups), and there no other user can be acted
    as.
    """
    if os.geteuid() != 0 or not os.getgroups():
        return
    try:
        os.setgroups([])
    except PermissionError:
        _LOG.debug("the supplementary groups stay, this user namespace does not allow to leave them")
