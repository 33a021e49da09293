"""Either daemon or either QEMU is killed at a message of the exchange: the other side says so, and the guest goes on.

A proxy between QEMU and its daemon sees every message, so that each death comes at the same one every time. The guest
boots once; every test goes on with it from a snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from ferryfs.guest import moving
from ferryfs.guest.agent import Agent
from ferryfs.guest.machine import Guest
from ferryfs.wire.vhost_user import Request
from vm.conftest import MOUNT_POINT, TAG
from vm.sides import MIDDLE, Side, Sides, begin, move

LINES = [f"line {number}" for number in range(20)]
# Reads the next line of a file that it has open, whenever it is asked to.
HOLDER = f"""
mkfifo /tmp/go /tmp/said && exec 3<{MOUNT_POINT}/held 7<>/tmp/go 8<>/tmp/said || exit 1
while read -r word <&7; do read -r line <&3 && echo "$line" >&8; done
"""
TRAVELLING = "memory travels"


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
    return side


def works(guest: Guest, line: int) -> None:
    """The guest reads on in its open file, and the daemon answers."""
    said = guest.check("echo >/tmp/go; timeout 60 head -n 1 /tmp/said")
    assert said == f"{LINES[line]}\n"
    served = guest.check(f"cd {MOUNT_POINT} && echo {line} >word && cat word && ls")
    assert served == f"{line}\nheld\nword\n"


# Who dies at the destination, when, and what its daemon then says that it was about. A QEMU has written all of a short
# state into the pipe when the middle of it arrives, so it has no middle.
DEATHS: tuple[tuple[str, Request | str, str], ...] = (
    ("daemon", Request.SET_DEVICE_STATE_FD, ""),
    ("daemon", MIDDLE, ""),
    ("daemon", Request.CHECK_DEVICE_STATE, ""),
    ("QEMU", Request.SET_DEVICE_STATE_FD, "the state was being loaded"),
    ("QEMU", Request.CHECK_DEVICE_STATE, "the guest had not started yet"),
)


def test_at_the_destination(sides: Sides, source: Side) -> None:
    """The guest goes on at the source, whatever dies there while it is loaded, and moves afterwards.

    What QEMU does with a daemon that dies when the guest has been loaded: the guest goes on there, without the share.
    """
    for line, (who, point, said) in enumerate(DEATHS):
        target = sides.start()
        target.at(point, partial(target.die, who))
        begin(source, target)
        assert moving.ended(source.guest) == moving.FAILED
        works(source.guest, line)
        if who == "daemon":
            assert f'(tag: "{TAG}")' in target.guest.error_text()
            target.guest.stop()
        else:
            assert target.backend.wait() == 0
            assert said in target.backend.log_text()
    target = sides.start()
    move(source, target)
    works(target.guest, len(DEATHS))
    last = sides.start()
    last.at(Request.SET_FEATURES, partial(last.die, "daemon"))
    move(target, last)
    assert last.guest.check("echo hello") == "hello\n"


@pytest.mark.parametrize("point", [TRAVELLING, Request.GET_VRING_BASE, MIDDLE], ids=str)
def test_the_daemon_at_the_source(sides: Sides, source: Side, point: Request | str) -> None:
    """QEMU says whose state it could not get, and the guest goes on there, without the share.

    Not before memory travels: QEMU itself gives up (abort(3)) when a daemon can't be told to log dirty pages.
    """
    target = sides.start()
    if point == TRAVELLING:
        begin(source, target, moving.SLOW_BYTES)
        moving.reached(source.guest, "active")
        source.die("daemon")
        moving.hurry(source.guest)
    else:
        source.at(point, partial(source.die, "daemon"))
        begin(source, target)
    assert moving.ended(source.guest) == moving.FAILED
    assert f'(tag: "{TAG}")' in source.guest.error_text()
    assert source.guest.check("echo hello") == "hello\n"
    target.guest.stop()
    assert target.backend.wait() == 0


@pytest.mark.parametrize(
    ("point", "said"),
    [(Request.GET_VRING_BASE, "paths were being collected"), (MIDDLE, "the state was being saved")],
    ids=str,
)
def test_qemu_at_the_source(sides: Sides, source: Side, point: Request | str, said: str) -> None:
    """Both daemons end well, and the source's says what it was about."""
    target = sides.start()
    source.at(point, partial(source.die, "QEMU"))
    begin(source, target)
    assert source.backend.wait() == 0
    assert said in source.backend.log_text()
    target.guest.stop()
    assert target.backend.wait() == 0
