"""What a daemon uses: processor time and memory of its processes, all threads included."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

# clock_getcpuclockid(3): the kernel's name for "all threads of that process, those that ended too, in nanoseconds".
_CPUCLOCK_SCHED = 2


@dataclass(frozen=True, slots=True)
class Memory:
    """In KiB. ``anonymous`` is RssAnon: guest memory, which is shared, and program files are left out of it."""

    anonymous: int
    resident: int


def processes(pid: int) -> list[int]:
    """The process and all that descend from it: a daemon may have forked into its sandbox."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found.extend(int(child) for child in children.read_text().split())
            except OSError:
                continue
    return found


def cpu_ns(pids: list[int]) -> int:
    """Processor time used by these processes so far, in nanoseconds."""
    return sum(time.clock_gettime_ns((~pid << 3) | _CPUCLOCK_SCHED) for pid in pids)


def memory(pids: list[int]) -> Memory:
    """Memory that these processes use now."""
    anonymous = resident = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "RssAnon":
                anonymous += int(value.split()[0])
            elif name == "VmRSS":
                resident += int(value.split()[0])
    return Memory(anonymous, resident)
