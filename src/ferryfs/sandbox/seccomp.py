"""The system calls that the serving process may make: an allow-list as data, with the reason of each group.

It is made for a process that has started: nothing in it opens a socket, starts a program, loads code, mounts, or
changes what the kernel is. Calls that are harmful only with some arguments are allowed with conditions on these. A
name that this architecture doesn't have is left out.

What is not in the list ends the process (``--seccomp=kill``), raises SIGSYS (``trap``), or is logged by the kernel
(``log``). clone3(2) answers ENOSYS: its flags are behind a pointer, where a filter can't see them; the C library then
uses clone(2).
"""

from __future__ import annotations

import errno
from typing import Final, NamedTuple

from ferryfs.errors import SetupError
from ferryfs.sandbox import _linux


class Group(NamedTuple):
    """System calls that are allowed for the same reason."""

    reason: str
    names: tuple[str, ...]


class Condition(NamedTuple):
    """A call that is allowed only where ``argument & mask == value``; several for one name are alternatives."""

    reason: str
    name: str
    argument: int
    mask: int
    value: int


def _group(reason: str, names: str) -> Group:
    return Group(reason, tuple(names.split()))


GROUPS: Final = (
    _group(
        "requests: looking up and opening",
        "openat openat2 open_by_handle_at name_to_handle_at close close_range statx newfstatat fstat fstatfs statfs "
        "readlinkat faccessat faccessat2 fcntl dup dup3 flock",
    ),
    _group(
        "requests: data",
        "read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 lseek copy_file_range fallocate "
        "ftruncate fsync fdatasync syncfs sync_file_range fadvise64 readahead splice sendfile",
    ),
    _group("requests: directories", "getdents64 mkdirat unlinkat renameat renameat2 linkat symlinkat mknodat"),
    _group("requests: attributes", "fchmod fchmodat fchmodat2 fchown fchownat utimensat"),
    _group(
        "requests: extended attributes",
        "getxattr lgetxattr fgetxattr setxattr lsetxattr fsetxattr listxattr llistxattr flistxattr removexattr "
        "lremovexattr fremovexattr getxattrat setxattrat listxattrat removexattrat",
    ),
    _group(
        "requests that create act as the guest's user, for one thread",
        "setresuid setresgid setgroups setfsuid setfsgid capget capset umask fchdir getgroups",
    ),
    _group(
        "the front-end: a connection that was accepted, memory and event descriptors that came over it",
        "accept accept4 recvmsg recvfrom sendmsg sendto shutdown getsockname getpeername getsockopt setsockopt "
        "memfd_create",
    ),
    _group(
        "waiting",
        "poll ppoll epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 select pselect6 eventfd2 "
        "timerfd_create timerfd_settime timerfd_gettime pipe pipe2 nanosleep clock_nanosleep restart_syscall",
    ),
    _group(
        "threads",
        "futex futex_waitv futex_wake futex_wait futex_requeue set_robust_list get_robust_list rseq set_tid_address "
        "gettid exit exit_group tgkill membarrier sched_yield sched_getaffinity sched_setaffinity getcpu "
        "sched_getparam sched_getscheduler",
    ),
    _group(
        "a collecting thread steps back behind the guest's requests",
        "sched_setscheduler sched_setattr sched_getattr setpriority getpriority ioprio_set ioprio_get",
    ),
    _group("memory", "brk munmap mremap madvise msync mincore mlock munlock"),
    _group("signals", "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigtimedwait rt_sigpending sigaltstack signalfd4"),
    _group(
        "time and identity",
        "clock_gettime clock_getres gettimeofday time times getrusage getrandom getpid getppid getuid geteuid getgid "
        "getegid getresuid getresgid getpgrp getpgid getsid getrlimit uname sysinfo getcwd",
    ),
    _group(
        "what older C libraries call instead, where the architecture has it",
        "open stat lstat access readlink getdents unlink rmdir mkdir rename link symlink chmod chown lchown mknod "
        "utime utimes futimesat dup2 creat truncate chdir fstatat64 fstat64 _llseek",
    ),
)

# sched.h, linux/sched.h
_CLONE_FS: Final = 0x200
_CLONE_THREAD: Final = 0x1_0000
# Any new namespace: mount, cgroup, uts, ipc, user, pid, net.
_CLONE_NEW: Final = 0x7E02_0000
_PROT_EXEC: Final = 4
_WORD: Final = 0xFFFF_FFFF
_POINTER: Final = 0xFFFF_FFFF_FFFF_FFFF

_IOCTLS: Final = {
    "FS_IOC_GETFLAGS": 0x8008_6601,
    "FS_IOC_SETFLAGS": 0x4008_6602,
    "FS_IOC_FSGETXATTR": 0x801C_581F,
    "FS_IOC_FSSETXATTR": 0x401C_5820,
    "FS_IOC_GETVERSION": 0x8008_7601,
    "FS_IOC_GETFSUUID": 0x8011_1500,
    "FIOCLEX": 0x5451,
    "FIONCLEX": 0x5450,
    "FIONBIO": 0x5421,
    "FIONREAD": 0x541B,
    "TCGETS": 0x5401,
}
# linux/prctl.h; PR_SET_VMA names memory for the kernel's accounts.
_PRCTLS: Final = {"PR_SET_NAME": 15, "PR_GET_NAME": 16, "PR_SET_TIMERSLACK": 29, "PR_SET_VMA": 0x53564D41}

CONDITIONS: Final = (
    Condition("a thread, never a process, and no namespace", "clone", 0, _CLONE_THREAD | _CLONE_NEW, _CLONE_THREAD),
    Condition("a worker's own working directory and umask", "unshare", 0, _POINTER, _CLONE_FS),
    Condition("memory, but no code", "mmap", 2, _PROT_EXEC, 0),
    Condition("memory, but no code", "mprotect", 2, _PROT_EXEC, 0),
    Condition("reading a limit, not setting it", "prlimit64", 2, _POINTER, 0),
    *(
        Condition(f"the request IOCTL, Python's files: {name}", "ioctl", 1, _WORD, number)
        for name, number in _IOCTLS.items()
    ),
    *(Condition(f"names of threads and memory: {name}", "prctl", 0, _WORD, number) for name, number in _PRCTLS.items()),
)

ANSWERED: Final = {
    "clone3": errno.ENOSYS,
}

# Newer than the libseccomp that may be installed; since Linux 5.1 numbers are the same on every architecture.
_NUMBERS: Final = {
    "epoll_pwait2": 441,
    "futex_waitv": 449,
    "fchmodat2": 452,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
}

# libseccomp's seccomp.h
_ACT_ALLOW: Final = 0x7FFF_0000
_ACT_ERRNO: Final = 0x0005_0000
_ACTIONS: Final = {"kill": 0x8000_0000, "trap": 0x0003_0000, "log": 0x7FFC_0000}
_ATTR_NO_NEW_PRIVS: Final = 3
_ATTR_THREAD_SYNC: Final = 4
_MASKED_EQUAL: Final = 7


class Rules:
    """The filter, built while libseccomp can still be loaded, and put in force later."""

    def __init__(self, action: str) -> None:
        """``action``: kill, trap or log. Raises ``SetupError`` without libseccomp."""
        self._action = action
        try:
            self._filter = _linux.Filter(_ACTIONS[action])
            self._filter.set_attribute(_ATTR_NO_NEW_PRIVS, 1)
            self._filter.set_attribute(_ATTR_THREAD_SYNC, 1)
            self.count = _add_rules(self._filter)
        except OSError as error:
            raise SetupError(
                f"--seccomp={action}: libseccomp can't be used ({error.strerror}), install it (package libseccomp2 or "
                "libseccomp) or write --seccomp=none"
            ) from None

    def load(self) -> None:
        """From here on, for every thread. Raises ``SetupError`` where the kernel refuses."""
        try:
            self._filter.load()
        except OSError as error:
            raise SetupError(
                f"--seccomp={self._action}: the filter can't be loaded ({error.strerror}), the kernel lacks "
                "CONFIG_SECCOMP_FILTER or this container forbids it: write --seccomp=none"
            ) from None


def _add_rules(made: _linux.Filter) -> int:
    count = 0
    for group in GROUPS:
        for name in group.names:
            number = _number(made, name)
            if number >= 0:
                made.add(_ACT_ALLOW, number, ())
                count += 1
    for condition in CONDITIONS:
        number = _number(made, condition.name)
        if number >= 0:
            comparison = (condition.argument, _MASKED_EQUAL, condition.mask, condition.value)
            made.add(_ACT_ALLOW, number, (comparison,))
            count += 1
    for name, code in ANSWERED.items():
        number = _number(made, name)
        if number >= 0:
            made.add(_ACT_ERRNO | code, number, ())
            count += 1
    return count


def _number(made: _linux.Filter, name: str) -> int:
    number = made.resolve(name.encode())
    return number if number >= 0 else _NUMBERS.get(name, number)
