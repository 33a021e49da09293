"""What machine a measurement was taken on: figures of different machines are never compared."""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from ferryfs.errors import OptionError


@dataclass(frozen=True, slots=True)
class Machine:
    """Host, kernel and file system of a run. ``identity`` is a hash of the host's machine id, which stays private."""

    identity: str
    processor: str
    processors: int
    memory_mib: int
    kernel: str
    python: str
    file_system: str

    @classmethod
    def here(cls, share: Path) -> Self:
        """This machine, with the file system that ``share`` lies on."""
        return cls(
            identity=_identity(),
            processor=_processor(),
            processors=len(os.sched_getaffinity(0)),
            memory_mib=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
            kernel=platform.release(),
            python=platform.python_version(),
            file_system=_file_system(share),
        )

    def check_same(self, other: Machine, what: str) -> None:
        """Raises OptionError when figures of ``other`` (named by ``what``) can't be set beside ours."""
        mine, theirs = asdict(self), asdict(other)
        different = [f"{name} {theirs[name]} there, {mine[name]} here" for name in mine if mine[name] != theirs[name]]
        if different:
            raise OptionError(
                f"{what} was measured on another machine ({'; '.join(different)}), so it can't be compared: "
                "run that version here again with --against."
            )

    def __str__(self) -> str:
        return (
            f"{self.processors} x {self.processor}, {self.memory_mib / 1024:.0f} GiB, Linux {self.kernel}, "
            f"Python {self.python}, {self.file_system}"
        )


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _identity() -> str:
    # A clone of a virtual machine keeps its machine id; the boot it was measured in tells the clones apart no better
    # than processor, memory and kernel do, and would refuse yesterday's run of the same machine.
    seed = _read("/etc/machine-id").strip() or platform.node()
    return hashlib.sha256(f"ferryfs bench {seed}".encode()).hexdigest()[:12]


def _processor() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "cpu model"):
            return value.strip()
    return platform.machine()


def _file_system(path: Path) -> str:
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in _read("/proc/self/mountinfo").splitlines():
        words = line.split()
        if len(words) > 6 and words[2] == wanted:
            return words[words.index("-") + 1]
    return "unknown"


def load_average() -> str:
    """How busy the machine is with other things, for the report: the three load averages."""
    try:
        return " ".join(f"{value:.1f}" for value in os.getloadavg())
    except OSError:
        return "unknown"
