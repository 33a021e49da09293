"""What a cached inode costs: private memory of the daemon, and processor time of LOOKUP (new, known) and FORGET.

usage: python benchmarks/cached_inodes.py [--files 1000,10000,100000] [--share DIR] [NAME=COMMAND …]

In a command {share} stands for the shared directory. Names have 16 bytes. Without a command: ferryfsd alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from ferryfs.bench.guest import BenchGuest, guests, request
from ferryfs.bench.machine import Machine, load_average
from ferryfs.frontend.load import LoadGenerator, LoadRequest
from ferryfs.wire.fuse import BATCH_FORGET_IN, ENTRY_OUT, FORGET_ONE, OUT_HEADER, ROOT_ID, Op

OWN = "ferryfsd=ferryfsd --shared-dir={share} --sandbox=none"
AT_ONCE = 2048
LANES = 8
FORGETS = 8  # as many as fit into a request of the high-priority queue here


def lookups(guest: BenchGuest, names: range) -> float:
    """Looks names up, eight in flight: processor time of the daemon in microseconds a name."""
    used = 0
    for start in range(names.start, names.stop, AT_ONCE):
        mark = guest.ram.mark()
        lanes: list[list[LoadRequest]] = [[] for _ in range(LANES)]
        for i in range(start, min(start + AT_ONCE, names.stop)):
            asked = request(Op.LOOKUP, ROOT_ID, f"{i:016}\0".encode())
            lanes[i % LANES].append(LoadRequest(asked, [OUT_HEADER.size, ENTRY_OUT.size]))
        before = guest.cpu_ns()
        result = LoadGenerator(guest.queue, [lane for lane in lanes if lane]).run(count=1)
        used += guest.cpu_ns() - before
        if result.errors:
            raise SystemExit(f"{guest.name}: {result.errors} of {result.done} names can't be looked up")
        guest.ram.rewind(mark)
    return used / 1000 / len(names)


def forgets(guest: BenchGuest, first: int, count: int, times: int) -> float:
    """Forgets `count` inodes from a nodeid on: CPU time of the daemon in microseconds an inode."""
    before = guest.cpu_ns()
    for start in range(first, first + count, FORGETS):
        ones = [FORGET_ONE.pack(nodeid=i, nlookup=times) for i in range(start, min(start + FORGETS, first + count))]
        body = BATCH_FORGET_IN.pack(count=len(ones)) + b"".join(ones)
        guest.hiprio.transact(request(Op.BATCH_FORGET, 0, body), [])
    return (guest.cpu_ns() - before) / 1000 / count


def measure(guest: BenchGuest, counts: list[int]) -> None:
    """Prints a line for each count; every one goes on where the one before ended."""
    first = guest.lookup(ROOT_ID, f"{0:016}")
    idle = guest.memory().anonymous
    done = 0
    print(f"| {guest.name} | 0 | {idle / 1024:.1f} | | | | |")
    for count in counts:
        new = lookups(guest, range(done, count))
        memory = guest.memory().anonymous
        known = lookups(guest, range(0, min(count, 20000)))
        each = (memory - idle) * 1024 / count
        print(f"| {guest.name} | {count:,} | {memory / 1024:.1f} | {each:.0f} | {new:.2f} | {known:.2f} | |")
        done = count
    cost = forgets(guest, first, done, 1 << 20)
    print(f"| {guest.name} | 0 again | {guest.memory().anonymous / 1024:.1f} | | | | {cost:.2f} |", flush=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--files", default="1000,10000,100000")
    parser.add_argument("--share", metavar="DIR")
    parser.add_argument("daemons", nargs="*", metavar="NAME=COMMAND")
    args = parser.parse_args()
    counts = sorted(int(word) for word in args.files.split(","))
    with tempfile.TemporaryDirectory(prefix="ferryfs-bench-", dir=args.share) as share:
        for i in range(counts[-1]):
            (Path(share) / f"{i:016}").touch()
        print(f"{Machine.here(Path(share))}; load {load_average()}\n")
        print("| daemon | inodes | RssAnon, MiB | bytes an inode | new LOOKUP, µs | known LOOKUP, µs | FORGET, µs |")
        print("| --- | --: | --: | --: | --: | --: | --: |")
        for text in args.daemons or [OWN]:
            name, _, command = text.partition("=")
            with guests([(name, command.replace("{share}", share))]) as (guest,):
                measure(guest, counts)


if __name__ == "__main__":
    sys.exit(main())
