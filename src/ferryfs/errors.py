"""The exception tree: whose fault it is, and which exit code it gives.

Every message is one sentence that names the thing (option, file, inode, queue, message), says what is wrong with it
and, where the reader can do something about it, what to type.
"""

from typing import ClassVar


class FerryError(Exception):
    """Base of everything that ferryfs raises on purpose; any other exception is a bug of ours."""

    exit_code: ClassVar[int] = 1


class OptionError(FerryError):
    """The user's fault: an option, a value or a combination that can't be."""

    exit_code = 2


class SetupError(FerryError):
    """The host's fault: something that the options ask for can't be had on this machine."""


class FrontendError(FerryError):
    """The front-end's fault: a message or a descriptor that breaks the vhost-user protocol. It ends the connection."""


class GuestError(FerryError):
    """The guest's fault: a malformed ring, chain or request. It never ends more than the ring that it came from."""


class StateError(FerryError):
    """The fault of a migration state: bytes that are not a state, or a state that can't be restored here."""


class CancelledError(FerryError):
    """Nobody's fault: who asked for something gave it up before it was done."""

    exit_code = 130


class PeerError(FerryError):
    """The back-end's fault, seen from our front-end: a daemon that answers wrongly or not at all."""
