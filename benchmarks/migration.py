"""What a migration costs: collecting, saving, loading, downtime, bytes and memory, beside the reference daemon.

usage: python benchmarks/migration.py [--inodes 10000,100000] [--rounds 3] [--modes find-paths,file-handles]
                                      [--share DIR] [--json FILE] [--markdown FILE] [NAME=COMMAND …]

In a command {share} stands for the shared directory and {mode} for the migration mode. The first command is compared
with all others. Without --share an ext4 image is made, mounted by loop and removed (root only); with it, the tree is
made below DIR where it is not there yet, and stays. Names have 16 bytes, a directory has 1,000 files.

Some facts about the measures. *Downtime* begins with the first GET_VRING_BASE at the source and ends with the first
answer at the destination, as a guest meets it; the stream goes through a relay while it is written, as through QEMU.
*Collecting* is the processor time of the daemon from F_LOG_ALL until it has no more threads than before and none
of them is runnable, of an idle guest; it may have more threads when they have slept for two seconds.
*Guest while collecting* is the rate of GETATTR, sixteen in flight, in the first part of a second after F_LOG_ALL, over
that of the part before: the median of some such pairs. Memory is RssAnon beyond the daemon's first, over the inodes,
when the guest has looked them up (source), when the state is written (saved), and when it is loaded and the first
answer is out (destination).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from ferryfs.bench import usage
from ferryfs.bench.guest import PAGE, BenchGuest, guests, request
from ferryfs.bench.machine import Machine, load_average
from ferryfs.frontend.attachment import Attachment, negotiate
from ferryfs.frontend.client import Direction
from ferryfs.frontend.daemon_process import DaemonProcess
from ferryfs.frontend.driver import DriverQueue
from ferryfs.frontend.load import LoadGenerator, LoadRequest
from ferryfs.wire.fuse import (
    ATTR_OUT,
    DIRENT,
    ENTRY_OUT,
    GETATTR_IN,
    OPEN_IN,
    OPEN_OUT,
    OUT_HEADER,
    READ_IN,
    RELEASE_IN,
    ROOT_ID,
    Op,
    record_size,
)

OWN: Final = (
    "ferryfsd=ferryfsd --shared-dir={share} --sandbox=none --migration-mode={mode}",
    "virtiofsd=virtiofsd --shared-dir={share} --sandbox=none --inode-file-handles=prefer --migration-mode={mode}",
)
FILES_PER_DIRECTORY: Final = 1000
OPEN_FILES: Final = 1000
IN_FLIGHT: Final = 16
LOAD_S: Final = 0.4
LOAD_PAIRS: Final = 7
READDIR_BYTES: Final = 3 * PAGE
# A daemon is done with collecting when none of its threads was runnable at so many looks in a row.
QUIET_LOOKS: Final = 5
LOOK_S: Final = 0.02
# The same where it has threads that it had not before: one that leaves the processor to the guest, or an idle one.
SLEEPING_LOOKS: Final = 100
RELAY_BYTES: Final = 1 << 20


@dataclass
class Turn:
    """One migration. Times in seconds, memory in bytes an inode."""

    collect_s: float
    collect_cpu_s: float
    guest_while_collecting: float
    save_s: float
    load_s: float
    downtime_s: float
    stop_cpu_s: float
    stream_bytes: float
    source_memory: float
    saved_memory: float
    destination_memory: float


@dataclass
class Held:
    """What the guest holds: nodeid -> inode number of some files, and the handles of those that are open."""

    numbers: dict[int, int]
    opened: dict[int, int]


# ---- the tree


def make_tree(root: Path, inodes: int) -> Path:
    """A tree with so many files; a mark in it says that it is complete."""
    share = root / f"tree-{inodes}"
    if (share / ".complete").exists():
        return share
    share.mkdir(parents=True, exist_ok=True)
    for start in range(0, inodes, FILES_PER_DIRECTORY):
        folder = share / f"{start:016}"
        folder.mkdir(exist_ok=True)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        for i in range(start, min(start + FILES_PER_DIRECTORY, inodes)):
            one = os.open(f"{i:016}", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=fd)
            if i % 10 == 0:
                os.write(one, b"%d" % i)
            os.close(one)
        os.close(fd)
    (share / ".complete").touch()
    return share


@contextlib.contextmanager
def image(inodes: int) -> Iterator[Path]:
    """A fresh ext4 file system in a file, mounted by loop."""
    with contextlib.ExitStack() as undo:
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="ferryfs-bench-", dir="/var/tmp")))
        file, mountpoint = folder / "ext4.img", folder / "mnt"
        mountpoint.mkdir()
        with file.open("wb") as made:
            made.truncate(max(1 << 30, 6144 * inodes))
        subprocess.run(["mkfs.ext4", "-q", "-F", "-N", str(inodes * 5 // 4 + 4096), file], check=True)
        subprocess.run(["mount", "-o", "loop", file, mountpoint], check=True)
        undo.callback(subprocess.run, ["umount", mountpoint], check=True)
        yield mountpoint


# ---- the guest


def fill(guest: BenchGuest, inodes: int) -> Held:
    """Looks up every file as `find` does (READDIRPLUS), and opens some of them."""
    held = Held({}, {})
    for start in range(0, inodes, FILES_PER_DIRECTORY):
        nodeid = guest.lookup(ROOT_ID, f"{start:016}")
        with guest.opened(nodeid, os.O_RDONLY | os.O_DIRECTORY) as fh:
            offset = 0
            asked = {"fh": fh, "size": READDIR_BYTES}
            while answer := guest.call(
                Op.READDIRPLUS, nodeid, READ_IN.pack(offset=offset, **asked), room=READDIR_BYTES
            ):
                at = 0
                while at < len(answer):
                    entry = DIRENT.unpack(answer, at + ENTRY_OUT.size)
                    offset = entry["off"]
                    if len(held.numbers) < OPEN_FILES and entry["type"] == 8:
                        found = ENTRY_OUT.unpack(answer, at)
                        held.numbers[found["nodeid"]] = found["attr_ino"]
                    at += record_size(ENTRY_OUT.size + DIRENT.size + entry["namelen"])
    for nodeid in held.numbers:
        answer = guest.call(Op.OPEN, nodeid, OPEN_IN.pack(flags=os.O_RDWR))
        held.opened[OPEN_OUT.unpack(answer)["fh"]] = nodeid
    return held


def rate(guest: BenchGuest, held: Held, seconds: float) -> float:
    """GETATTR a second of a busy guest."""
    mark = guest.ram.mark()
    nodeids = list(held.numbers)[:IN_FLIGHT]
    lanes = [
        [LoadRequest(request(Op.GETATTR, nodeid, GETATTR_IN.pack()), [OUT_HEADER.size + ATTR_OUT.size])]
        for nodeid in nodeids
    ]
    result = LoadGenerator(guest.queue, lanes).run(seconds=seconds)
    guest.ram.rewind(mark)
    if result.errors:
        raise SystemExit(f"{guest.name}: {result.errors} of {result.done} GETATTR failed")
    return result.done / result.seconds


def ask(queue: DriverQueue, op: Op, nodeid: int, body: bytes, room: int) -> bytes:
    """One request of the guest, whoever serves it. Fails loudly."""
    used, answer = queue.transact(request(op, nodeid, body), [OUT_HEADER.size, room], timeout=60)
    error = OUT_HEADER.unpack(answer[0])["error"]
    if error:
        raise SystemExit(f"{op.name} of nodeid {nodeid} at the destination: {os.strerror(-error)}")
    return answer[1][: used - OUT_HEADER.size]


def check(queue: DriverQueue, held: Held) -> None:
    """The destination must have the very files, and the open ones must be usable."""
    for nodeid, number in held.numbers.items():
        answer = ask(queue, Op.GETATTR, nodeid, GETATTR_IN.pack(), ATTR_OUT.size)
        if ATTR_OUT.unpack(answer)["attr_ino"] != number:
            raise SystemExit(f"nodeid {nodeid} is another file at the destination")
    for fh, nodeid in held.opened.items():
        ask(queue, Op.READ, nodeid, READ_IN.pack(fh=fh, offset=0, size=PAGE), PAGE)
    for fh, nodeid in held.opened.items():
        ask(queue, Op.RELEASE, nodeid, RELEASE_IN.pack(fh=fh), PAGE)


# ---- the migration


def threads(pids: list[int]) -> list[str]:
    """The state of each thread of a daemon."""
    states = []
    for pid in pids:
        for path in Path(f"/proc/{pid}/task").glob("*/stat"):
            with contextlib.suppress(OSError):  # it has ended
                states.append(path.read_text().rpartition(")")[2].split()[0])
    return states


def settle(pids: list[int], before: int) -> float:
    """Waits until a daemon that had ``before`` threads has no more and none wants to run; how long it was so, in s."""
    quiet = 0
    while True:
        time.sleep(LOOK_S)
        states = threads(pids)
        quiet = 0 if {"R", "D"} & set(states) else quiet + 1
        if quiet >= (QUIET_LOOKS if len(states) <= before else SLEEPING_LOOKS):
            return quiet * LOOK_S


def relay(source: int, destination: int) -> int:
    """Moves the stream on as it comes; how many bytes."""
    total = 0
    while part := os.read(source, RELAY_BYTES):
        total += len(part)
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(destination, rest) :]
    return total


def turn(guest: BenchGuest, destination: DaemonProcess, inodes: int) -> Turn:
    """Fills the guest and moves it. The destination runs already."""
    idle = guest.memory().anonymous
    held = fill(guest, inodes)
    source_memory = guest.memory().anonymous
    source = guest.attachment

    idle_threads = len(threads(guest.pids))
    before, began = guest.cpu_ns(), time.monotonic()
    source.start_logging()
    quiet = settle(guest.pids, idle_threads)
    collect_s = time.monotonic() - began - quiet
    collect_cpu_s = (guest.cpu_ns() - before) / 1e9
    ratios = []
    for _ in range(LOAD_PAIRS):
        source.stop_logging()
        undisturbed = rate(guest, held, LOAD_S)
        idle_threads = len(threads(guest.pids))
        source.start_logging()
        ratios.append(rate(guest, held, LOAD_S) / undisturbed)
    settle(guest.pids, idle_threads)

    pids = usage.processes(destination.pid)
    client = destination.connect()
    with contextlib.closing(client):
        features = negotiate(client, queues=2)
        client.set_timeout(300)
        source.client.set_timeout(300)
        target = Attachment(client, guest.ram, (guest.hiprio, guest.queue), features)
        there = usage.memory(pids).anonymous
        idle_threads = len(threads(pids))
        before = guest.cpu_ns() + usage.cpu_ns(pids)
        began = time.monotonic()
        bases = source.stop()
        total = switch_over(source, target)
        saved, loaded = total[0] - began, total[1] - total[0]
        target.introduce()
        target.start(bases)
        ask(guest.queue, Op.GETATTR, ROOT_ID, GETATTR_IN.pack(), ATTR_OUT.size)
        downtime = time.monotonic() - began
        stop_cpu = (guest.cpu_ns() + usage.cpu_ns(pids) - before) / 1e9
        settle(pids, idle_threads)
        restored = usage.memory(pids).anonymous
        written = guest.memory().anonymous
        check(guest.queue, held)
        target.stop()
    each = 1024 / inodes
    return Turn(
        collect_s=collect_s,
        collect_cpu_s=collect_cpu_s,
        guest_while_collecting=statistics.median(ratios),
        save_s=saved,
        load_s=loaded,
        downtime_s=downtime,
        stop_cpu_s=stop_cpu,
        stream_bytes=total[2],
        source_memory=(source_memory - idle) * each,
        saved_memory=(written - idle) * each,
        destination_memory=(restored - there) * each,
    )


def switch_over(source: Attachment, target: Attachment) -> tuple[float, float, int]:
    """(when the source had written all, when the destination had loaded it, bytes)."""
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    in_read, in_write = os.pipe2(os.O_CLOEXEC)
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, out_read)
        theirs = source.client.set_device_state_fd(Direction.SAVE, out_write)
        os.close(out_write)
        ours = target.client.set_device_state_fd(Direction.LOAD, in_read)
        os.close(in_read)
        if theirs is not None or ours is not None:
            raise SystemExit("a daemon wants to use a descriptor of its own")
        total = relay(out_read, in_write)
        os.close(in_write)
        source.client.check_device_state()
        saved = time.monotonic()
        target.client.check_device_state()
    return saved, time.monotonic(), total


def run(name: str, command: str, share: Path, inodes: int) -> Turn:
    """One turn of one daemon, both ends of it fresh."""
    with tempfile.TemporaryDirectory(prefix="ferryfs-bench-") as folder, guests([(name, command)]) as (guest,):
        destination = DaemonProcess(command, f"{folder}/destination.sock", sys.stderr)
        try:
            return turn(guest, destination, inodes)
        finally:
            destination.end()


# ---- the report

COLUMNS: Final = {
    "collect_s": ("collecting, s", 1.0, 2),
    "collect_cpu_s": ("its CPU, s", 1.0, 2),
    "guest_while_collecting": ("guest while collecting", 1.0, 2),
    "save_s": ("save, ms", 1e3, 0),
    "load_s": ("load after it, ms", 1e3, 0),
    "downtime_s": ("downtime, ms", 1e3, 0),
    "stop_cpu_s": ("CPU of both in it, ms", 1e3, 0),
    "stream_bytes": ("stream, MB", 1e-6, 1),
    "source_memory": ("source, B an inode", 1.0, 0),
    "saved_memory": ("source saved, B an inode", 1.0, 0),
    "destination_memory": ("destination, B an inode", 1.0, 0),
}


def medians(turns: list[Turn]) -> Turn:
    return Turn(**{one.name: statistics.median(getattr(each, one.name) for each in turns) for one in fields(Turn)})


def table(mode: str, inodes: int, turns: dict[str, list[Turn]]) -> str:
    """Medians of each daemon, and of the first over each other one in neighbouring turns."""
    lines = [f"### {mode}, {inodes:,} inodes, {OPEN_FILES:,} open files", ""]
    lines.append("| | " + " | ".join(head for head, _, _ in COLUMNS.values()) + " |")
    lines.append("| --- |" + " --: |" * len(COLUMNS))
    for name, list_ in turns.items():
        if list_:
            middle = asdict(medians(list_))
            cells = (f"{middle[key] * factor:,.{digits}f}" for key, (_, factor, digits) in COLUMNS.items())
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    first, *others = turns
    for other in others:
        pairs = list(zip(turns[first], turns[other], strict=False))
        if pairs:
            ratios = {
                key: statistics.median(getattr(a, key) / (getattr(b, key) or float("nan")) for a, b in pairs)
                for key in COLUMNS
            }
            lines.append(f"| {first} / {other} | " + " | ".join(f"{ratios[key]:.3f}" for key in COLUMNS) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--inodes", default="10000,100000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--modes", default="find-paths,file-handles")
    parser.add_argument("--share", type=Path, metavar="DIR")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("daemons", nargs="*", metavar="NAME=COMMAND")
    args = parser.parse_args()
    counts = sorted(int(word) for word in args.inodes.split(","))
    daemons = [text.partition("=")[::2] for text in args.daemons or OWN]
    results: list[dict[str, object]] = []
    texts: list[str] = []
    with contextlib.ExitStack() as undo:
        root = args.share or undo.enter_context(image(sum(counts)))
        machine = Machine.here(root)
        texts.append(f"{machine}; load averages {load_average()}; {args.rounds} turns of each daemon in alternation.\n")
        print(texts[0], flush=True)
        for inodes in counts:
            share = make_tree(root, inodes)
            for mode in args.modes.split(","):
                turns: dict[str, list[Turn]] = {name: [] for name, _ in daemons}
                for _ in range(args.rounds):
                    for name, command in daemons:
                        ready = command.replace("{share}", str(share)).replace("{mode}", mode)
                        one = run(name, ready, share, inodes)
                        turns[name].append(one)
                        results.append({"daemon": name, "command": ready, "mode": mode, "inodes": inodes} | asdict(one))
                texts.append(table(mode, inodes, turns))
                print(texts[-1], flush=True)
    if args.json:
        args.json.write_text(json.dumps({"machine": asdict(machine), "turns": results}, indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text("\n".join(texts))


if __name__ == "__main__":
    main()
