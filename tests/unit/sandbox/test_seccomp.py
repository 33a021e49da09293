"""What the serving process may and may not do, tried from inside; and the list itself."""

import re
import signal
from pathlib import Path

import pytest

from ferryfs.cli.options import Options, SeccompAction
from ferryfs.sandbox import seccomp

from .conftest import Inside

KILLED = 128 + signal.SIGSYS


@pytest.mark.parametrize(
    "code",
    [
        "os.execv('/share/hello', ['x'])",
        "os.fork()",
        "socket.socket(socket.AF_INET)",
        "socket.socket(socket.AF_UNIX)",
        "socket.socketpair()",
        "_linux.mount(b'x', b'/share', b'tmpfs', 0)",
        "_linux.umount(b'/share', 2)",
        "_linux.pivot_root(b'.', b'.')",
        "_linux.unshare(0x20000)",
        "_linux.unshare(0x10000000)",
        "_linux.open_tree(-100, b'/', 1)",
        "_linux.prctl(4, 1)",
        "os.kill(1, 0)",
        "os.chroot('/share')",
        "socket.sethostname('x')",
        "os.setsid()",
    ],
)
def test_what_no_server_needs_is_killed(inside: Inside, code: str) -> None:
    outcome = inside(code)
    assert outcome.status == KILLED, outcome
    assert "SIGSYS" in outcome.complained


LIBC = "import ctypes; libc = ctypes.CDLL(None, use_errno=True)"


@pytest.mark.parametrize(
    "call",
    [
        "ptrace(0, 0, 0, 0)",
        "mount(b'x', b'/share', b'tmpfs', 0, None)",
        "process_vm_readv(1, None, 0, None, 0, 0)",
        "personality(0)",
        "syscall(321, 0, 0, 0)",  # bpf(2)
        "syscall(425, 8, 0)",  # io_uring_setup(2)
        "syscall(438, 0, 0, 0)",  # pidfd_getfd(2)
    ],
)
def test_what_python_has_no_function_for_is_killed_too(inside: Inside, call: str) -> None:
    assert inside(f"libc.{call}", before=LIBC).status == KILLED


def test_clone3_is_not_there(inside: Inside) -> None:
    """ENOSYS, so that the C library takes clone(2), whose flags can be looked at."""
    assert inside("print(libc.syscall(435, 0, 0), ctypes.get_errno())", before=LIBC).said == "-1 38"


def test_threads_from_before_are_confined_too(inside: Inside) -> None:
    before = (
        "go = threading.Event()\n"
        "thread = threading.Thread(target=lambda: go.wait() and socket.socketpair())\n"
        "thread.start()"
    )
    assert inside("go.set(); thread.join()", before=before, mode="none").status == -signal.SIGSYS


def test_memory_for_code_is_refused(inside: Inside) -> None:
    # The module is there from the start in this process, so it is the filter alone that refuses.
    code = "confined_mmap.mmap(-1, 4096, prot=confined_mmap.PROT_READ | confined_mmap.PROT_EXEC)"
    assert inside(code, before="import mmap as confined_mmap").status == KILLED
    assert inside("confined_mmap.mmap(-1, 4096)", before="import mmap as confined_mmap").status == 0


@pytest.mark.parametrize(
    "code",
    [
        "t = threading.Thread(target=lambda: None); t.start(); t.join()",
        "_linux.unshare(0x200)",
        "os.setresgid(5, 5, 5); os.setresuid(5, 5, 5)",
        "os.setgroups([])",
        "os.umask(0o22)",
        "d = at('.'); os.mkdir('d', dir_fd=d); os.rmdir('d', dir_fd=d)",
        "f = at('new', os.O_CREAT | os.O_RDWR); os.posix_fallocate(f, 0, 9)",
        "f = at('hello'); os.fchmod(f, 0o600); os.fchown(f, 0, 0); os.utime(f, (1, 1)); os.fsync(f)",
        "f = at('hello'); os.setxattr(f, 'user.a', b'b'); os.listxattr(f); os.removexattr(f, 'user.a')",
        "os.rename('hello', 'hi', src_dir_fd=at('.'), dst_dir_fd=at('.'))",
        "os.symlink('x', 'l', dir_fd=at('.')); os.readlink('l', dir_fd=at('.'))",
        "os.mkfifo('p', dir_fd=at('.'))",
        "os.pread(at('hello'), 3, 0)",
        "raise ValueError('a traceback')",
        "_linux.set_thread_name(b'worker')",
        "os.statvfs(at('.'))",
        "os.eventfd(0)",
    ],
)
def test_what_a_server_needs_goes_on(inside: Inside, code: str) -> None:
    outcome = inside(code)
    assert outcome.status in (0, 1), outcome
    assert "SIGSYS" not in outcome.complained


def test_log_only_lets_it_pass(inside: Inside) -> None:
    assert inside("socket.socketpair(); print('passed')", seccomp="log").said == "passed"


def test_trap_is_a_signal(inside: Inside) -> None:
    assert "killed by signal 31" in inside("socket.socketpair()", seccomp="trap").complained


def test_every_group_has_a_reason_and_no_call_stands_twice() -> None:
    names = [name for group in seccomp.GROUPS for name in group.names]
    assert sorted(names) == sorted(set(names))
    assert all(group.reason for group in seccomp.GROUPS)
    conditional = {condition.name for condition in seccomp.CONDITIONS}
    assert conditional.isdisjoint(names)


def test_nothing_that_starts_connects_or_loads_is_in_the_list() -> None:
    names = {name for group in seccomp.GROUPS for name in group.names}
    forbidden = (
        "execve execveat fork vfork clone3 socket socketpair connect bind listen ptrace process_vm_readv mount umount2 "
    )
    forbidden += (
        "pivot_root chroot setns init_module finit_module bpf keyctl perf_event_open io_uring_setup kill reboot "
    )
    forbidden += "open_tree move_mount fsopen userfaultfd personality seccomp landlock_create_ruleset pidfd_getfd"
    assert names.isdisjoint(forbidden.split())


def test_every_suite_runs_with_the_filter() -> None:
    """It is there by default, and no test of a suite switches it off."""
    assert Options().seccomp is SeccompAction.KILL
    tests = Path(__file__).parents[2]
    off = re.compile(r"--seccomp[=\", ]+(none|log)")
    without = {path.name for path in tests.rglob("*.py") if off.search(path.read_text())}
    assert without == {"test_options.py"}
