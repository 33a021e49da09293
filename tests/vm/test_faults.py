"""Either daemon or either QEMU is killed at a message of the exchange: the other side says so, and the guest goes on.

A proxy between QEMU and its daemon sees every message, so that each death comes at the same one every time. The guest
boots once; every test goes on with it from a snapshot. ``FERRYFS_KILLS=all`` kills each of the four at every message,
which takes minutes; CI does so once for each sort of outcome.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from daemons import GONE, complaints
from interop.cutting import CuttingProxy

from ferryfs.errors import SetupError
from ferryfs.guest import moving
from ferryfs.guest.agent import Agent
from ferryfs.guest.backend import Backend
from ferryfs.guest.machine import Guest
from ferryfs.guest.moving import MoveError
from ferryfs.wire.vhost_user import Request
from vm.conftest import MOUNT_POINT, TAG
from vm.kills import (
    AT_SOURCE,
    AT_TARGET,
    DAEMON,
    NOWHERE,
    QEMU,
    SOURCE,
    TARGET,
    TO_SOURCE,
    TO_TARGET,
    TO_TARGET_AT_START,
    UNSHARED_AT_SOURCE,
    UNSHARED_AT_TARGET,
    Kill,
    a_choice,
    every_kill,
)
from vm.sides import Side, Sides, begin, move

ALL = os.environ.get("FERRYFS_KILLS") == "all"
KILLS = list(every_kill() if ALL else a_choice())
STARTS = list(itertools.product((DAEMON, QEMU), range(len(TO_TARGET_AT_START)) if ALL else (0, 12)))
LINES = [f"line {number}" for number in range(20)]
# Reads the next line of a file that it has open, whenever it is asked to.
HOLDER = f"""
mkfifo /tmp/go /tmp/said && exec 3<{MOUNT_POINT}/held 7<>/tmp/go 8<>/tmp/said || exit 1
while read -r word <&7; do read -r line <&3 && echo "$line" >&8; done
"""
# How a daemon begins to say what it was about.
IN_THE_MIDDLE = "the front-end went away in the middle of it: "
# What QEMU names the share's device by.
DEVICE = f'(tag: "{TAG}")'


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Agent]:
    """(the shared directory, a guest that has it mounted and a file open, in a file; its agent)."""
    folder = tmp_path_factory.mktemp("faults")
    shared = folder / "shared"
    shared.mkdir()
    (shared / "held").write_text("".join(f"{line}\n" for line in LINES))
    with ExitStack() as stack:
        side = Sides(folder, shared, stack).start("")
        side.guest.check(f"mount -t virtiofs {TAG} {MOUNT_POINT}")
        side.guest.agent.start(HOLDER)
        side.guest.check("until test -p /tmp/said; do usleep 10000; done")
        moving.save(side.guest, folder / "snapshot")
    return shared, folder / "snapshot", side.guest.agent


@pytest.fixture
def sides(snapshot: tuple[Path, Path, Agent], tmp_path: Path) -> Iterator[Sides]:
    with ExitStack() as stack:
        yield Sides(tmp_path, snapshot[0], stack)


@pytest.fixture
def source(sides: Sides, snapshot: tuple[Path, Path, Agent]) -> Side:
    """The guest of the snapshot, running."""
    _, file, agent = snapshot
    side = sides.start()
    side.guest.agent.follow(agent)
    moving.restore(side.guest, file)
    works(side.guest, 0)
    return side


def works(guest: Guest, line: int) -> None:
    """The guest reads on in its open file, and the daemon answers."""
    said = guest.check("echo >/tmp/go; timeout 60 head -n 1 /tmp/said")
    assert said == f"{LINES[line]}\n"
    served = guest.check(f"cd {MOUNT_POINT} && echo {line} >word && cat word && ls")
    assert served == f"{line}\nheld\nword\n"


def lives(guest: Guest) -> None:
    """The guest runs; what it is without its share is its own matter."""
    assert guest.check("echo hello") == "hello\n"


def descriptors(backend: Backend) -> int:
    """How many the processes of a daemon have open."""
    assert backend.process is not None
    first = backend.process.pid
    children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in (first, *children))


def ended_well(side: Side, said: str) -> None:
    """The daemon has noticed that its QEMU is gone, and says what it was about."""
    assert side.backend.wait() == 0
    log = side.backend.log_text()
    assert GONE in log
    assert (said in log, IN_THE_MIDDLE in log) == (True, bool(said))


def test_these_are_all_messages(sides: Sides, source: Side) -> None:
    """What QEMU sends in a migration that goes well. What a guest that runs makes it send comes on top."""
    before = len(source.proxy.passed)
    target = sides.start()
    move(source, target)
    works(target.guest, 1)
    assert tuple(source.proxy.passed[before:]) == TO_SOURCE
    expected = (*TO_TARGET_AT_START, *TO_TARGET)
    assert tuple(target.proxy.passed[: len(expected)]) == expected
    assert set(target.proxy.passed[len(expected) :]) <= {Request.SET_VRING_CALL}


@pytest.mark.parametrize("kill", KILLS, ids=str)
def test_a_kill(kill: Kill, sides: Sides, source: Side) -> None:
    """Of the four that live, each says what happened; the guest goes on, and moves again where it has its share."""
    target = sides.start()
    target.guest.agent.follow(source.guest.agent)
    both = {SOURCE: source, TARGET: target}
    told = both[kill.to]

    def die() -> None:
        if kill.who == QEMU and kill.whose == kill.to:
            # It does not wait for every answer, and may have sent more already.
            told.proxy.allowed = len(told.proxy.passed) + 1
        both[kill.whose].die(kill.who)

    before = len(source.proxy.passed) if kill.to == SOURCE else len(TO_TARGET_AT_START)
    if kill.middle:
        told.in_the_middle(die)
    else:
        told.at_place(kill.messages[0], kill.place, die)
    open_before = descriptors(source.backend)
    begin(source, target)
    assert goes_on(kill, source, target) in kill.goes_on()
    assert tuple(told.proxy.passed[before:][: kill.place]) == kill.messages[: kill.place]
    if kill.goes_on() == (AT_SOURCE,):
        assert descriptors(source.backend) == open_before
        last = sides.start()
        move(source, last)
        works(last.guest, 2)
    for side in both.values():
        assert not complaints(side.backend.log_text())


def goes_on(kill: Kill, source: Side, target: Side) -> str:
    """Where the guest goes on, and that all sides have noticed why."""
    if kill.whose == TARGET:
        return at_source(kill, source, target) if kill.goes_on() == (AT_SOURCE,) else unshared_at_target(source, target)
    if kill.to == TARGET:
        return at_target(kill, source, target)
    return nowhere(kill, source, target) if NOWHERE in kill.goes_on() else unshared_at_source(source, target)


def at_source(kill: Kill, source: Side, target: Side) -> str:
    assert moving.ended(source.guest) == moving.FAILED
    works(source.guest, 1)
    if kill.who == DAEMON:
        assert target.guest.wait() == 1
        assert DEVICE in target.guest.error_text()
    else:
        ended_well(target, kill.said())
    return AT_SOURCE


def at_target(kill: Kill, source: Side, target: Side) -> str:
    try:
        moving.running(target.guest)
    except MoveError:
        return nowhere(kill, source, target)
    works(target.guest, 1)
    if kill.who == DAEMON:
        assert moving.ended(source.guest) == moving.COMPLETED
    else:
        ended_well(source, kill.said())
    return AT_TARGET


def unshared_at_source(source: Side, target: Side) -> str:
    assert moving.ended(source.guest) == moving.FAILED
    lives(source.guest)
    assert DEVICE in source.guest.error_text()
    assert target.guest.wait() == 1
    ended_well(target, "")
    return UNSHARED_AT_SOURCE


def unshared_at_target(source: Side, target: Side) -> str:
    assert moving.ended(source.guest) == moving.COMPLETED
    moving.running(target.guest)
    lives(target.guest)
    # In QEMU's own words, one for each message.
    assert target.guest.error_text()
    return UNSHARED_AT_TARGET


def nowhere(kill: Kill, source: Side, target: Side) -> str:
    if kill.who == DAEMON:
        assert source.guest.wait() == -signal.SIGABRT
        assert "vhost_set_" in source.guest.error_text()
    else:
        ended_well(source, kill.said())
    assert target.guest.wait() == 1
    assert "load of migration failed" in target.guest.error_text()
    ended_well(target, "")
    return NOWHERE


@pytest.mark.parametrize(("who", "place"), STARTS)
def test_a_kill_when_the_target_starts(who: str, place: int, sides: Sides, source: Side) -> None:
    """Nobody is there to go to."""
    backends = []

    def arrange(backend: Backend, proxy: CuttingProxy) -> None:
        backends.append(backend)
        proxy.at[place] = backend.kill if who == DAEMON else proxy.kill_front_end

    refused = ""
    try:
        target = sides.start(arrange=arrange)
        begin(source, target)
    except SetupError as error:
        refused = str(error)
    if refused:
        assert who == QEMU or "vhost" in refused
    else:
        # It does not wait for answers to its last messages, and may not notice.
        assert who == DAEMON
        assert place >= TO_TARGET_AT_START.index(Request.SET_VRING_CALL)
        assert moving.ended(source.guest) == moving.FAILED
        assert target.guest.wait() == 1
        assert DEVICE in target.guest.error_text()
    if who == QEMU:
        assert backends[0].wait() == 0
        assert IN_THE_MIDDLE not in backends[0].log_text()
    assert not complaints(backends[0].log_text())
    works(source.guest, 1)


def test_the_sources_daemon_is_killed_while_memory_travels(sides: Sides, source: Side) -> None:
    """QEMU says whose state it could not get, and the guest goes on there, without the share."""
    target = sides.start()
    begin(source, target, moving.SLOW_BYTES)
    moving.reached(source.guest, "active")
    source.die(DAEMON)
    moving.hurry(source.guest)
    assert unshared_at_source(source, target) == UNSHARED_AT_SOURCE
