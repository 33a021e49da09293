"""How the text of one option becomes a value. Each function raises ``OptionError`` saying what would be right."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TypeVar

from ferryfs.errors import OptionError
from ferryfs.sandbox.idmappings import IdMapping

E = TypeVar("E", bound=enum.Enum)

TAG_MAX = 36
"""Bytes of ``virtio_fs_config.tag`` (virtio 1.2, section 5.11.4)."""

PATH_MAX = 4096
_SUFFIXES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_TRUE = frozenset(("1", "true", "yes", "on"))
_FALSE = frozenset(("0", "false", "no", "off"))


def text(value: str) -> str:
    """Any text but none."""
    if not value:
        raise OptionError("must not be empty")
    return value


def path(value: str) -> str:
    """A path name; it need not exist yet."""
    if not value:
        raise OptionError("must be a path, not empty")
    if "\0" in value:
        raise OptionError("must be a path, and a path can't contain a NUL")
    if len(value.encode("utf-8", "surrogateescape")) >= PATH_MAX:
        raise OptionError(f"must be a path of at most {PATH_MAX - 1} bytes")
    return value


def tag(value: str) -> str:
    """The name by which the guest mounts the share."""
    length = len(value.encode("utf-8", "surrogateescape"))
    if not 0 < length <= TAG_MAX:
        raise OptionError(f"must be 1 to {TAG_MAX} bytes long, it has {length}")
    return value


def truth(value: str) -> bool:
    """A switch in a configuration file or the environment."""
    lowered = value.lower()
    if lowered in _TRUE:
        return True
    if lowered in _FALSE:
        return False
    raise OptionError("must be true or false")


def integer(low: int, high: int, unit: str = "") -> Callable[[str], int]:
    """A decimal number from ``low`` to ``high``."""
    what = f"must be a whole number{' of ' + unit if unit else ''} from {low} to {high}"

    def parse(value: str) -> int:
        if not (value.isascii() and value.isdigit()):
            raise OptionError(what)
        number = int(value)
        if not low <= number <= high:
            raise OptionError(what)
        return number

    return parse


def size(value: str) -> int:
    """Bytes, with a suffix K, M, G or T for powers of 1024."""
    digits = value.rstrip("KMGTkmgt")
    suffix = value[len(digits) :].lower()
    if not (digits.isascii() and digits.isdigit()) or suffix not in _SUFFIXES:
        raise OptionError("must be a size such as 65536, 512K, 64M or 1G")
    return int(digits) * _SUFFIXES[suffix]


def limit(value: str) -> int:
    """A resource limit: a size, or ``unlimited`` (-1, as RLIM_INFINITY is in Python)."""
    return -1 if value.lower() == "unlimited" else size(value)


def seconds(value: str) -> float:
    """A time span in seconds, zero or more."""
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    # Also refuses NaN. A day is virtiofsd's own longest timeout; ten years is beyond every use.
    if not 0 <= number <= 315_360_000:
        raise OptionError("must be a number of seconds, zero or more, such as 1 or 0.5")
    return number


def choice(kind: type[E], **aliases: E) -> Callable[[str], E]:
    """One of the values of an enumeration, in any case; ``aliases`` are accepted and not advertised."""
    names = {str(member.value): member for member in kind}
    allowed = ", ".join(names)

    def parse(value: str) -> E:
        lowered = value.lower()
        member = names.get(lowered) or aliases.get(lowered)
        if member is None:
            raise OptionError(f"must be one of {allowed}")
        return member

    return parse


def id_mapping(value: str) -> IdMapping:
    """``:INSIDE:OUTSIDE:COUNT:`` of ``--uid-map`` and ``--gid-map``, with any delimiter."""
    form = "must be written :INSIDE:OUTSIDE:COUNT: with numbers, for example :0:100000:65536:"
    if not value or value[0].isalnum() or value[-1] != value[0]:
        raise OptionError(form)
    fields = value[1:-1].split(value[0])
    if len(fields) != 3 or not all(field.isascii() and field.isdigit() for field in fields):
        raise OptionError(form)
    mapping = IdMapping(*map(int, fields))
    if not mapping.length or max(mapping.inside, mapping.outside) + mapping.length > 0xFFFF_FFFF:
        raise OptionError("must have a count of at least 1 and stay below id 4294967295")
    return mapping


def capability_changes(value: str) -> tuple[str, ...]:
    """``+name:-name`` of ``--modcaps``; each as ``+CAP`` or ``-CAP``, names in lower case and without ``cap_``."""
    # Imported here: the table of capabilities is needed only where the option is used.
    from ferryfs.sandbox.capabilities import CAPABILITIES

    changes = []
    for change in value.split(":"):
        sign, name = change[:1], change[1:].lower().removeprefix("cap_")
        if sign not in ("+", "-"):
            raise OptionError("must be written +NAME or -NAME, several joined by ':', for example +sys_admin:-chown")
        if name not in CAPABILITIES:
            raise OptionError(
                f"names the unknown capability {name!r}, capabilities(7) lists them, for example +sys_admin"
            )
        changes.append(sign + name)
    return tuple(changes)
