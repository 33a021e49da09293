"""Moving a running guest to another QEMU, or into a file, by the monitor commands of QEMU's ``migration.json``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ferryfs.errors import SetupError
from ferryfs.guest.machine import Guest
from ferryfs.guest.qmp import QmpError

# A guest under emulation on a busy machine; QEMU itself knows no limit.
MOVE_TIMEOUT = 120.0
COMPLETED = "completed"
CANCELLED = "cancelled"
FAILED = "failed"
ENDED = frozenset({COMPLETED, CANCELLED, FAILED})
# Those that are used here.
CAPABILITIES = ("events", "return-path", "multifd")
# What makes a migration never end by itself: so slow that the guest's memory takes minutes.
SLOW_BYTES = 64 << 10


class MoveError(SetupError):
    """A guest did not move; the text has what each side said."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What QEMU says of a migration that ended well: times in milliseconds, and the bytes of guest memory sent."""

    downtime: int
    total: int
    memory: int


def _set_capabilities(guest: Guest, wanted: Sequence[str]) -> None:
    """Switch these on and the others off: a guest that came by a migration still has what that one needed."""
    states = [{"capability": name, "state": name == "events" or name in wanted} for name in CAPABILITIES]
    guest.monitor.execute("migrate-set-capabilities", {"capabilities": states})


def start(source: Guest, uri: str, *, capabilities: Sequence[str] = (), bandwidth: int = 0) -> None:
    """Begin to move a guest to where ``uri`` says, as ``unix:PATH`` or ``file:PATH``; ``bandwidth`` in bytes a second.

    A guest that goes to another QEMU wants ``return-path``: without it the source counts as done, and the guest is
    gone, when the destination fails to load.
    """
    _set_capabilities(source, capabilities)
    source.monitor.execute("migrate-set-parameters", {"max-bandwidth": bandwidth or 1 << 40})
    source.monitor.execute("migrate", {"uri": uri})


def hurry(source: Guest) -> None:
    """Lift the limit of a migration's bandwidth."""
    source.monitor.execute("migrate-set-parameters", {"max-bandwidth": 1 << 40})


def reached(source: Guest, status: str, timeout: float = MOVE_TIMEOUT) -> None:
    """Wait until a migration of this guest is in that status of QEMU's MigrationStatus.

    :raises MoveError: it ended in another one.
    """
    while (now := _next_status(source, timeout)) != status:
        if now in ENDED:
            raise MoveError(f"the migration is {now} and was to be {status}: {_why(source)}")


def _next_status(guest: Guest, timeout: float) -> str:
    status: str = guest.monitor.wait_event("MIGRATION", timeout=timeout)["data"]["status"]
    return status


def _why(source: Guest) -> str:
    return str(source.monitor.execute("query-migrate").get("error-desc", "QEMU gives no reason"))


def ended(source: Guest, timeout: float = MOVE_TIMEOUT) -> str:
    """Wait for the end of a migration and return how it ended: one of ``ENDED``."""
    while (status := _next_status(source, timeout)) not in ENDED:
        pass
    return status


def result(source: Guest, timeout: float = MOVE_TIMEOUT) -> Moved:
    """Wait for the good end of a migration.

    :raises MoveError: it failed or was cancelled.
    """
    status = ended(source, timeout)
    if status != COMPLETED:
        raise MoveError(f"the migration {status}: {_why(source)}")
    facts: dict[str, Any] = source.monitor.execute("query-migrate")
    return Moved(facts["downtime"], facts["total-time"], facts["ram"]["transferred"])


def listen(destination: Guest, uri: str, *, capabilities: Sequence[str] = ()) -> None:
    """Make a QEMU that was started with ``-incoming defer`` wait for a guest at ``uri``, or load it from a file."""
    _set_capabilities(destination, capabilities)
    destination.monitor.execute("migrate-incoming", {"uri": uri})


def running(destination: Guest, timeout: float = MOVE_TIMEOUT) -> None:
    """Wait until the guest that comes in runs.

    :raises MoveError: it does not; the text has what QEMU wrote.
    """
    try:
        destination.monitor.wait_event("RESUME", timeout=timeout)
        # The last event of the way in, or it would be taken for the end of the way out again.
        status = ended(destination, timeout)
    except (QmpError, OSError) as error:
        raise MoveError(f"the guest did not arrive: {destination.error_text() or error}") from error
    if status != COMPLETED:
        raise MoveError(f"the guest did not arrive: the migration {status}. {destination.error_text()}")


def move(source: Guest, destination: Guest, *, capabilities: Sequence[str] = (), tcp: bool = False) -> Moved:
    """Move a guest to a QEMU that was started with ``-incoming defer``; afterwards it runs there, and not here.

    Over a unix socket, or over TCP on the loopback with a port that the destination chooses.
    """
    uri = "tcp:127.0.0.1:0" if tcp else f"unix:{destination.folder / 'migration'}"
    destination.agent.follow(source.agent)
    listen(destination, uri, capabilities=capabilities)
    if tcp:
        [address] = destination.monitor.execute("query-migrate")["socket-address"]
        uri = f"tcp:127.0.0.1:{address['port']}"
    start(source, uri, capabilities=["return-path", *capabilities])
    moved = result(source)
    running(destination)
    return moved


def save(source: Guest, file: Path) -> Moved:
    """Write a guest into a file; it stays here, stopped."""
    start(source, f"file:{os.fspath(file)}")
    return result(source)


def restore(destination: Guest, file: Path) -> None:
    """Let a QEMU that was started with ``-incoming defer`` go on with the guest in a file."""
    listen(destination, f"file:{os.fspath(file)}")
    running(destination)
