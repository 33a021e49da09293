"""What a test must leave as it found it: file descriptors, threads, mounts and child processes of this process.

Some facts. A child whose parent ends becomes ours only when we are a "subreaper" (prctl(2)); without that, a daemon
that a test forgot would not be seen. Such an orphan stays as a zombie until we wait for it, which is no leak. A file
descriptor is told from its successor of the same number by what it refers to.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import threading
import time
from dataclasses import dataclass
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWNS = 0x00020000
MS_REC = 1 << 14
MS_PRIVATE = 1 << 18
# Ending is asynchronous for threads, children and mounts; a leak is what is still there after this.
PATIENCE_SECONDS = float(os.environ.get("FERRYFS_TEST_PATIENCE", "3"))
POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Snapshot:
    """Everything of this process that can leak, each as text that says what it is."""

    descriptors: frozenset[str]
    threads: frozenset[str]
    mounts: frozenset[str]
    children: frozenset[str]

    def beyond(self, other: Snapshot) -> list[str]:
        """What is here and not there, one sentence each."""
        kinds = (
            ("file descriptor", self.descriptors - other.descriptors),
            ("thread", self.threads - other.threads),
            ("mount", self.mounts - other.mounts),
            ("child process", self.children - other.children),
        )
        return [f"a {kind} is left over: {one}" for kind, found in kinds for one in sorted(found)]

    def __or__(self, other: Snapshot) -> Snapshot:
        return Snapshot(
            self.descriptors | other.descriptors,
            self.threads | other.threads,
            self.mounts | other.mounts,
            self.children | other.children,
        )


def keep_apart() -> None:
    """Make the children of our children ours when their parent ends, and, as root, mounts a matter of this run only.

    In a mount namespace of our own, what others mount is no leak here, and a leak of ours can't outlive us.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def checked(result: int) -> None:
        if result:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))

    checked(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
    if os.geteuid() == 0:
        checked(libc.unshare(CLONE_NEWNS))
        checked(libc.mount(None, b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None))


def _descriptors() -> frozenset[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        # The listing's own descriptor is gone by now.
        with contextlib.suppress(FileNotFoundError):
            found.add(f"{name} -> {os.readlink(f'/proc/self/fd/{name}')}")
    return frozenset(found)


def _threads() -> frozenset[str]:
    known = {str(thread.native_id): thread.name for thread in threading.enumerate()}
    found = set()
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            name = Path(f"/proc/self/task/{task}/comm").read_text().strip()
            found.add(f"{task} ({known.get(task, name)})")
    return frozenset(found)


def _mounts() -> frozenset[str]:
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    return frozenset(f"{line.split()[4]} (mount {line.split()[0]})" for line in lines)


def _children() -> frozenset[str]:
    ours = str(os.getpid())
    found = set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            command, _, rest = Path(f"/proc/{name}/stat").read_text(errors="replace").rpartition(")")
            if rest.split()[1] == ours:
                found.add(f"{command})")
    return frozenset(found)


def _reap(children: frozenset[str]) -> None:
    for child in children:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(int(child.split()[0]), os.WNOHANG)


def snapshot() -> Snapshot:
    """What this process has now."""
    return Snapshot(_descriptors(), _threads(), _mounts(), _children())


def left_over(before: Snapshot) -> list[str]:
    """What is there now and was not before, after giving it time to end."""
    found = snapshot().beyond(before)
    if found:
        gc.collect()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while found and time.monotonic() < deadline:
        _reap(_children() - before.children)
        select.select([], [], [], POLL_SECONDS)
        found = snapshot().beyond(before)
    return found
