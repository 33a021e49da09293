"""Who may be killed at which message between a QEMU and its daemon, and what has to come of it.

The messages are those of QEMU 8.2 to 10 with one request queue. ``test_faults`` sees that they are all there are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from ferryfs.wire.vhost_user import Request

SOURCE, TARGET = SIDES = ("source", "target")
DAEMON, QEMU = ("daemon", "QEMU")
# Not a message, but a place in the device state, between SET_DEVICE_STATE_FD and CHECK_DEVICE_STATE.
MIDDLE = "the middle of the state"

Point = Request | str

# From the beginning of a migration to its end: the guest works on until the rings are disabled.
TO_SOURCE: tuple[Request, ...] = (
    Request.SET_LOG_BASE,
    Request.SET_FEATURES,
    *(2 * (Request.SET_VRING_ADDR,)),
    *(2 * (Request.SET_VRING_ENABLE,)),
    *(2 * (Request.GET_VRING_BASE,)),
    *(2 * (Request.SET_VRING_CALL,)),
    Request.SET_DEVICE_STATE_FD,
    Request.CHECK_DEVICE_STATE,
)
# When QEMU starts, and waits for a guest.
TO_TARGET_AT_START: tuple[Request, ...] = (
    Request.GET_FEATURES,
    Request.GET_PROTOCOL_FEATURES,
    Request.SET_PROTOCOL_FEATURES,
    Request.GET_QUEUE_NUM,
    Request.GET_MAX_MEM_SLOTS,
    Request.SET_BACKEND_REQ_FD,
    Request.SET_OWNER,
    Request.GET_FEATURES,
    *(2 * (Request.SET_VRING_CALL, Request.SET_VRING_ERR)),
    Request.RESET_DEVICE,
)
# When the guest comes, until it runs.
_RING_STARTS = (Request.SET_VRING_NUM, Request.SET_VRING_BASE, Request.SET_VRING_ADDR, Request.SET_VRING_KICK)
TO_TARGET: tuple[Request, ...] = (
    Request.SET_DEVICE_STATE_FD,
    Request.CHECK_DEVICE_STATE,
    *(2 * (Request.SET_VRING_CALL,)),
    Request.SET_FEATURES,
    Request.ADD_MEM_REG,
    *(2 * _RING_STARTS),
    *(2 * (Request.SET_VRING_ENABLE,)),
)

# Where the guest goes on.
AT_SOURCE = "at the source"
AT_TARGET = "at the target"
NOWHERE = "nowhere"
UNSHARED_AT_SOURCE = "at the source, without the share"
UNSHARED_AT_TARGET = "at the target, without the share"

# What a daemon says that it was about when its QEMU has gone.
COLLECTED = "paths were being collected"
SAVED = "the state was being saved"
LOADED = "the state was being loaded"
NOT_STARTED = "the guest had not started yet"


@dataclass(frozen=True)
class Kill:
    """``who`` of the side ``whose`` is killed when the message in that place is on its way to the daemon of ``to``."""

    whose: str
    who: str
    to: str
    place: int
    middle: bool = False

    @property
    def messages(self) -> tuple[Request, ...]:
        """All that go to that daemon."""
        return TO_SOURCE if self.to == SOURCE else TO_TARGET

    @property
    def message(self) -> Request:
        """At the middle of the state, the one before it."""
        return self.messages[self.place]

    def goes_on(self) -> tuple[str, ...]:
        """Where the guest may go on."""
        loaded = self.to == TARGET and self.place > TO_TARGET.index(Request.CHECK_DEVICE_STATE)
        if self.whose == TARGET:
            # QEMU lets it run when it has been loaded, whatever becomes of the share.
            return (UNSHARED_AT_TARGET if loaded and self.who == DAEMON else AT_SOURCE,)
        if self.to == TARGET:
            # The share's device is not the last one in a state: what comes behind it may still be in the source's QEMU.
            return (AT_TARGET,) if loaded or self.who == DAEMON else (AT_TARGET, NOWHERE)
        # QEMU gives up (abort(3)) when nobody logs what is written to the guest's memory.
        logged = self.place >= TO_SOURCE.index(Request.SET_VRING_ENABLE)
        return (UNSHARED_AT_SOURCE if logged and self.who == DAEMON else NOWHERE,)

    def said(self) -> str:
        """What the daemon of a QEMU that is killed was about; empty: not in the middle of anything."""
        if self.who == DAEMON or self.whose != self.to or self.message == Request.SET_LOG_BASE:
            return ""
        if self.message == Request.SET_DEVICE_STATE_FD:
            return LOADED if self.to == TARGET else SAVED
        if self.to == TARGET:
            return NOT_STARTED if self.place < TO_TARGET.index(Request.SET_VRING_KICK) else ""
        return "" if self.message == Request.CHECK_DEVICE_STATE else COLLECTED

    def __str__(self) -> str:
        where = MIDDLE if self.middle else f"{self.message.name} ({self.place})"
        return f"{self.whose}'s {self.who} at {where} to the {self.to}"


def every_kill() -> Iterator[Kill]:
    """In the order of the messages."""
    for (to, messages), whose, who in itertools.product(
        ((SOURCE, TO_SOURCE), (TARGET, TO_TARGET)), SIDES, (DAEMON, QEMU)
    ):
        for place, message in enumerate(messages):
            yield Kill(whose, who, to, place)
            # All of a short state is in the pipe when QEMU has written the middle of it.
            has_middle = whose == to and (whose, who) != (TARGET, QEMU)
            if message == Request.SET_DEVICE_STATE_FD and has_middle:
                yield Kill(whose, who, to, place, middle=True)


def a_choice() -> Iterator[Kill]:
    """The first kill of each sort: who, told what, and with what outcome."""
    seen = set()
    for kill in every_kill():
        sort = (kill.whose, kill.who, kill.to, kill.middle, kill.goes_on(), kill.said())
        if sort not in seen:
            seen.add(sort)
            yield kill
