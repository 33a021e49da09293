"""``--sandbox=namespace``: own mount, pid and network namespaces, and without root a user namespace around them.

Two processes. The outer one stays where it is: it holds the locked pid file, passes signals on, and ends with the
status of the inner one. The inner one is process 1 of its pid namespace and serves. Its root is a tiny read-only file
system of its own, with the share mounted at ``/share``: an absolute path never leads to what the guest can write (see
docs/decisions).

::

    outer                                    inner
    unshare(user?, pid); ids of the namespace
    block the signals, fork                  (signals stay blocked until there are handlers)
    close the listener                       unshare(mount, net); mounts; pivot_root
    wait for signals and the child           serve
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Sequence
from typing import Final, NoReturn

from ferryfs.errors import SetupError
from ferryfs.sandbox import _linux, capabilities
from ferryfs.sandbox.idmappings import Plan
from ferryfs.sandbox.root import (
    AT_FDCWD,
    AT_RECURSIVE,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
    Confined,
    check_shared,
    close_leaked_files,
    open_mountinfo,
    open_proc_self,
)

_LOG = logging.getLogger("ferryfs.sandbox")

# linux/sched.h
CLONE_NEWNS: Final = 0x0002_0000
CLONE_NEWUSER: Final = 0x1000_0000
CLONE_NEWPID: Final = 0x2000_0000
CLONE_NEWNET: Final = 0x4000_0000
# linux/mount.h
MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REC: Final = 0x4000
MS_SLAVE: Final = 0x80000
MNT_DETACH: Final = 2
MOVE_MOUNT_F_EMPTY_PATH: Final = 4
MOUNT_ATTR_RDONLY: Final = 1
MOUNT_ATTR_NOSUID: Final = 2
MOUNT_ATTR_NODEV: Final = 4
MOUNT_ATTR_NOEXEC: Final = 8

PR_SET_PDEATHSIG: Final = 1

SHARE: Final = "/share"
"""Where the share is mounted in the new root; paths in mountinfo and /proc/self/fd begin with it."""

FORWARDED: Final = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))


def enter(shared_dir: str, ids: Plan, outer_closes: Sequence[int] = ()) -> Confined:
    """Returns in the inner process only; the outer one lives in here and exits with the inner one's status.

    The signals of ``FORWARDED`` are blocked in the inner process: unblock them once there are handlers.
    ``outer_closes`` are descriptors that only the inner process may hold.
    """
    is_directory = check_shared(shared_dir)
    uid = os.geteuid()
    _unshare(CLONE_NEWPID | (CLONE_NEWUSER if uid else 0), uid)
    if uid:
        ids.apply()
    signal.pthread_sigmask(signal.SIG_BLOCK, [*FORWARDED, signal.SIGCHLD])
    reader, writer = os.pipe()
    try:
        child = os.fork()
    except OSError as error:
        raise SetupError(f"--sandbox=namespace: no process can be started: {error.strerror}") from None
    if child:
        os.close(reader)
        _outer(child, outer_closes)
    os.close(writer)
    # What the outer process keeps for the sake of a lock is none of this one's business.
    close_leaked_files(None, locked_too=True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    _die_with_parent(reader)
    _unshare(CLONE_NEWNS | CLONE_NEWNET, uid)
    return _mount(shared_dir, is_directory)


def _unshare(flags: int, uid: int) -> None:
    try:
        _linux.unshare(flags)
    except OSError as error:
        raise SetupError(f"--sandbox=namespace: {_why_not(uid)} ({error.strerror})") from None


def _why_not(uid: int) -> str:
    """What is missing, and which mode would work."""
    effective = capabilities.read_status()
    if uid == 0:
        if capabilities.missing(effective, ["sys_admin"]):
            works = "none" if capabilities.missing(effective, ["sys_chroot"]) else "chroot"
            return (
                "new namespaces need CAP_SYS_ADMIN, which this process lacks (as usual in a container): write "
                f"--sandbox={works}"
            )
        return "the kernel gives no new namespaces: write --sandbox=chroot"
    return (
        "the kernel gives ordinary users no namespaces: raise the sysctl user.max_user_namespaces (Debian also has "
        "kernel.unprivileged_userns_clone, Ubuntu kernel.apparmor_restrict_unprivileged_userns) or write --sandbox=none"
    )


def _die_with_parent(alive: int) -> None:
    """Without the outer process nobody could end this one any more."""
    _linux.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have died before the line above. Then the other end of its pipe is closed, and reading gives the end.
    os.set_blocking(alive, False)
    try:
        if os.read(alive, 1) == b"":
            os._exit(1)
    except BlockingIOError:
        pass
    os.close(alive)


def _mount(shared_dir: str, is_directory: bool) -> Confined:
    """Build the new root and change to it. Every failure says which step it was."""
    step = "making the mounts private"
    try:
        _linux.mount(None, b"/", None, MS_SLAVE | MS_REC)
        step = f"copying the mounts below {shared_dir}"
        share = _linux.open_tree(AT_FDCWD, os.fsencode(shared_dir), AT_RECURSIVE | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)
        _restrict(share)
        step = "mounting proc"
        try:
            _linux.mount(b"proc", b"/proc", b"proc", MS_NODEV | MS_NOEXEC | MS_NOSUID)
        except PermissionError:
            # Where a container hides parts of /proc the kernel refuses a new one in a user namespace. The old one shows
            # this process too, under its number outside.
            _LOG.debug("no new proc file system can be mounted here, the present one is used")
        proc = open_proc_self()
        step = "making the new root"
        _linux.mount(b"ferryfs", b"/proc", b"tmpfs", MS_NODEV | MS_NOEXEC | MS_NOSUID, b"size=64k,nr_inodes=4")
        root = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        os.fchdir(root)
        place = SHARE.removeprefix("/")
        if is_directory:
            os.mkdir(place, 0o755)
        else:
            os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        _linux.move_mount(share, place.encode(), MOVE_MOUNT_F_EMPTY_PATH)
        step = "changing the root"
        # pivot_root(2): with "." for both, the old root ends on top of the new one, and goes.
        _linux.pivot_root(b".", b".")
        _linux.umount(b".", MNT_DETACH)
        os.chdir("/")
        _linux.mount_setattr(root, 0, MOUNT_ATTR_RDONLY, 0)
        os.close(root)
        os.close(share)
        root_fd = os.open(SHARE, os.O_PATH)
    except OSError as error:
        raise SetupError(
            f"--sandbox=namespace: {step} failed ({error.strerror}); if this host forbids it, write "
            "--sandbox=chroot as root, or --sandbox=none"
        ) from None
    return Confined(root_fd, proc.fd_directory_fd, open_mountinfo(proc), SHARE)


def _restrict(share: int) -> None:
    """Nothing below the share is ever executed or opened as a device by us, whatever happens."""
    try:
        _linux.mount_setattr(share, AT_RECURSIVE, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC, 0)
    except OSError as error:
        # Before Linux 5.12. A second line of defence only.
        _LOG.debug("the share could not be mounted nosuid, nodev and noexec: %s", error.strerror)


def _outer(child: int, closes: Sequence[int]) -> NoReturn:
    for fd in closes:
        os.close(fd)
    try:
        # It only passes signals on: same user, so no capability is needed.
        capabilities.drop_to(())
        os._exit(_wait(child))
    except OSError as error:
        _LOG.error("the outer process failed: %s", error)
        os._exit(1)


def _wait(child: int) -> int:
    while True:
        number = signal.sigwait([*FORWARDED, signal.SIGCHLD])
        if number in FORWARDED:
            os.kill(child, number)
            continue
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid != child:
            continue
        if not os.WIFSIGNALED(status):
            return os.waitstatus_to_exitcode(status)
        number = os.WTERMSIG(status)
        hint = ", a system call that --seccomp does not allow" if number == signal.SIGSYS else ""
        _LOG.error("the serving process was killed by signal %d (%s%s)", number, signal.Signals(number).name, hint)
        return 128 + number
