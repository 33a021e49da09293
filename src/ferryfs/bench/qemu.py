"""Programs in a Linux guest on QEMU: one boot, a virtio-fs device for each daemon, mounted in turn, each turn afresh.

Under emulation (TCG) most of the time is the guest's own, and hardly differs between daemons; what a daemon is, is in
its processor time. "bare" runs the same programs on a tmpfs of the guest: that is how much is the guest's own. Requests
are counted in guest memory, by the used rings of the device's queues, because not every daemon counts them.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ferryfs.bench import trees, usage, workloads
from ferryfs.bench.plan import Plan
from ferryfs.bench.results import BARE, Cell, Turn
from ferryfs.bench.workloads import CACHES, Workload
from ferryfs.errors import PeerError, SetupError
from ferryfs.guest import accelerator, cpio
from ferryfs.guest.backend import Backend
from ferryfs.guest.command_line import PROGRAM, Machine, Share
from ferryfs.guest.image import Parts, find_parts, initramfs
from ferryfs.guest.machine import Guest

NAME: Final = "guest"
ABOUT: Final = (
    "programs in a Linux guest on QEMU, each turn with a fresh mount, with trees a fifth as large as in workloads; "
    "bare: on a tmpfs of the guest"
)
MOUNTS: Final = False
# Of the size that the same workload has on the host, at most: the guest may be emulated, and a used ring counts to
# 65,536 (`tar x` of 1,000 files makes 15,000 requests).
SCALE: Final = 0.2
QUEUES: Final = 1
MEMORY_MIB: Final = 512
MOUNT_POINT: Final = "/mnt"
BARE_PLACE: Final = "/tmp/bare"
PROGRAM_TIMEOUT_S: Final = 600.0
USED_IDX: Final = 2
"""Where a used ring has the number of requests that were ever answered, modulo ``WRAPS``."""
WRAPS: Final = 1 << 16


def _tree(place: Path, plan: Plan) -> None:
    trees.sources(place / "tree", plan.scaled(3000, 24))


WORKLOADS: Final = (
    *[workload for workload in workloads.WORKLOADS if workload.name in ("git status", "find", "diff -r", "tar x")],
    Workload(
        "cp -r",
        "copying 3,000 files, and removing the copies",
        _tree,
        lambda _: [("cp", "-r", "tree", "copy"), ("rm", "-r", "copy")],
    ),
)


@dataclass(frozen=True, slots=True)
class Served:
    """A daemon that runs for a device of the guest: its case, the number of the device, the daemon's processes."""

    name: str
    case: str
    device: int
    pids: list[int]


def names() -> list[str]:
    """The rows."""
    return [workload.name for workload in WORKLOADS]


def run(plan: Plan) -> list[Cell]:
    """All workloads, with each cache policy."""
    wanted = [row for row in WORKLOADS if plan.wants(row.name) and all(plan.tool(tool, row.name) for tool in row.tools)]
    if not wanted or not plan.tool(PROGRAM, NAME):
        return []
    try:
        parts = find_parts()
    except SetupError as error:
        plan.note(f"{NAME} was left out: {error}")
        return []
    cells: list[Cell] = []
    small = replace(plan, scale=min(plan.scale, 1.0) * SCALE)
    with plan.folder() as share, _booted(plan, parts, share) as (guest, served):
        for workload in wanted:
            workload.fill(share / _folder(workload), small)
            for case in dict.fromkeys(one.case for one in served):
                cells += _measure(small, workload, guest, share, [one for one in served if one.case == case])
    return cells


def _folder(workload: Workload) -> str:
    return workload.name.replace(" ", "-")


# The guest


@contextlib.contextmanager
def _booted(plan: Plan, parts: Parts, share: Path) -> Iterator[tuple[Guest, list[Served]]]:
    """A guest with a device for each daemon and cache policy; device N has the tag N."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ferryfs-bench-")))
        running: list[tuple[str, str, Backend]] = []
        for cache in CACHES:
            for daemon in plan.daemons:
                command = shlex.split(daemon.line(share, f"--cache={cache}"))
                place = folder / str(len(running))
                backend = Backend(command, None, place.with_suffix(".sock"), place.with_suffix(".log"))
                running.append((daemon.name, cache, stack.enter_context(backend)))
        shares = [Share(str(device), backend.socket, QUEUES) for device, (_, _, backend) in enumerate(running)]
        image = _with_git(initramfs(parts), folder)
        chosen = accelerator.choose(parts)
        machine = Machine(parts.kernel, image, chosen, tuple(shares), memory=MEMORY_MIB)
        guest = stack.enter_context(Guest(machine))
        served = [
            Served(name, f"cache={cache}, {chosen}", device, usage.processes(backend.pid))
            for device, (name, cache, backend) in enumerate(running)
        ]
        yield guest, served


def _with_git(image: Path, folder: Path) -> Path:
    """An initramfs with this host's git beside all else, where there is one: Linux unpacks archives in a row as one."""
    git = shutil.which("git")
    if git is None:
        return image
    needed = subprocess.run(["ldd", git], check=True, stdout=subprocess.PIPE, text=True).stdout
    files = [git, *re.findall(r"(/\S+) \(0x", needed)]
    parents = dict.fromkeys(str(parent)[1:] for file in files for parent in list(Path(file).parents)[-2::-1])
    entries = [cpio.directory(parent) for parent in parents]
    entries += [cpio.Entry(file[1:], 0o100755, Path(file).read_bytes()) for file in files]
    both = folder / "initramfs"
    both.write_bytes(image.read_bytes() + cpio.archive(entries))
    return both


def _answered(guest: Guest, device: int) -> int:
    """How many requests the device's queues have answered so far, each modulo ``WRAPS``."""
    count = 0
    for queue in range(1 + QUEUES):
        path = f"/machine/peripheral/fs{device}/virtio-backend"
        ring = guest.monitor.execute("x-query-virtio-vhost-queue-status", {"path": path, "queue": queue})
        words = {"command-line": f"xp /1hx {ring['used-phys'] + USED_IDX:#x}"}
        count += int(guest.monitor.execute("human-monitor-command", words).split(":")[1], 16)
    return count


# Turns


def _measure(plan: Plan, workload: Workload, guest: Guest, share: Path, served: list[Served]) -> list[Cell]:
    subjects: list[Served | None] = [None, *served]
    taken: dict[str, list[Turn]] = {one.name if one else BARE: [] for one in subjects}
    for order in plan.turns(subjects):
        for one in order:
            workload.reset(share / _folder(workload))
            turn = _turn(plan, workload, guest, one) if one else _bare_turn(plan, workload, guest, served[0])
            taken[one.name if one else BARE].append(turn)
    cells = [Cell(NAME, workload.name, served[0].case, name, tuple(turns)) for name, turns in taken.items()]
    plan.progress(cells)
    return cells


def _turn(plan: Plan, workload: Workload, guest: Guest, one: Served) -> Turn:
    guest.check(f"mount -t virtiofs {one.device} {MOUNT_POINT}")
    used, answered = usage.cpu_ns(one.pids), _answered(guest, one.device)
    seconds = _timed(plan, workload, guest, f"{MOUNT_POINT}/{_folder(workload)}")
    used, answered = usage.cpu_ns(one.pids) - used, _answered(guest, one.device) - answered
    guest.check(f"umount {MOUNT_POINT}")
    daemon_s = used / 1e9
    return {
        "seconds": seconds,
        "daemon_s": daemon_s,
        "daemon_part": daemon_s / seconds,
        "requests": float(answered % WRAPS),
    }


def _bare_turn(plan: Plan, workload: Workload, guest: Guest, source: Served) -> Turn:
    """On a copy in the guest's memory. Being first, the copying also leaves the host's cache warm."""
    guest.check(f"mount -t virtiofs {source.device} {MOUNT_POINT}")
    guest.check(f"cp -a {MOUNT_POINT}/{_folder(workload)} {BARE_PLACE}", PROGRAM_TIMEOUT_S)
    guest.check(f"umount {MOUNT_POINT}")
    seconds = _timed(plan, workload, guest, BARE_PLACE)
    guest.check(f"rm -r {BARE_PLACE}", PROGRAM_TIMEOUT_S)
    return {"seconds": seconds}


def _timed(plan: Plan, workload: Workload, guest: Guest, place: str) -> float:
    """Seconds by the guest's own clock, which shows hundredths: the agent takes longer than that to start a shell."""
    programs = " && ".join(shlex.join(command) for command in workload.commands(plan))
    clock = "read -r {} _ </proc/uptime"
    script = f"cd {place} && {clock.format('began')} && {{ {programs}; }} >/dev/null && {clock.format('ended')}"
    words = guest.check(f"{script} && echo $began $ended", PROGRAM_TIMEOUT_S).split()
    if len(words) != 2:
        raise PeerError(f"{workload.name} in the guest said: {' '.join(words)}")
    began, ended = map(float, words)
    return max(ended - began, 0.01)
