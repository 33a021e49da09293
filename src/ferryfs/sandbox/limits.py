"""Resource limits: how many files the daemon may have open, and what of them is the guest's."""

from __future__ import annotations

import logging
import resource
from typing import NamedTuple

from ferryfs.errors import OptionError, SetupError

_LOG = logging.getLogger("ferryfs.sandbox")

DEFAULT_FILES = 1_000_000
"""What virtiofsd asks for too. More costs nothing by itself; the kernel's own limit is usually 1,048,576."""

MEMORY_SLOTS = 509
"""Most regions of guest memory (VHOST_USER_GET_MAX_MEM_SLOTS), each with an fd."""

RESERVED_FILES = MEMORY_SLOTS + 300
"""The daemon's own: memory regions, three eventfds for each of 65 rings, sockets, the log, /proc, and open mounts."""

FEW_FILES = 128
"""Less than this for the guest and hardly a program runs in it; the same figure as virtiofsd's warning."""


class FileLimit(NamedTuple):
    """What the daemon may have open, and how much of it the guest may use."""

    total: int
    guest: int


def set_file_limit(wanted: int | None, threads: int, nr_open_path: str = "/proc/sys/fs/nr_open") -> FileLimit:
    """Raise RLIMIT_NOFILE as far as asked and allowed. ``wanted``: None is as much as is useful, 0 is as it is.

    Raises ``OptionError`` where the given number can't be had or leaves nothing for the guest.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    total = soft if soft != resource.RLIM_INFINITY else DEFAULT_FILES
    if wanted is None:
        if total < DEFAULT_FILES:
            total = _raise_as_far_as_allowed(min(DEFAULT_FILES, _kernel_maximum(nr_open_path)), hard)
    elif wanted:
        _set_exactly(wanted, hard, nr_open_path)
        total = wanted
    # Each thread opens first and counts then.
    reserve = RESERVED_FILES + max(1, threads)
    guest = total - reserve
    if guest < FEW_FILES:
        enough = reserve + FEW_FILES
        named = "" if wanted is None else f"--rlimit-nofile={wanted}: "
        cure = f"give at least {enough}"
        if hard != resource.RLIM_INFINITY and hard < enough:
            # Then no value of the option is enough, or the option isn't what is wrong.
            cure = (
                f"raise the hard limit {hard} of whoever starts ferryfsd (ulimit -Hn, or LimitNOFILE= in a systemd "
                f"unit) to at least {enough}"
            )
            cure += "" if wanted is None else ", and leave it out"
        if guest <= 0:
            raise OptionError(f"{named}{total} open files are too few, the daemon itself needs {reserve}: {cure}")
        _LOG.warning("%sonly %d open files are left for the guest, %s", named, guest, cure)
    return FileLimit(total, guest)


def set_core_limit(size: int) -> None:
    """Set RLIMIT_CORE for good: the hard limit too."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (size, size))
    except (OSError, ValueError):
        raise OptionError(f"--rlimit-core={size}: is above the limit {hard} of whoever starts ferryfsd") from None


def _kernel_maximum(path: str) -> int:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError) as error:
        raise SetupError(f"{path} can't be read ({error}), mount proc at /proc or give --rlimit-nofile=0") from None


def _raise_as_far_as_allowed(target: int, hard: int) -> int:
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, max(target, hard)))
    except (OSError, ValueError):
        # Without CAP_SYS_RESOURCE it goes up to the hard limit.
        target = min(target, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
        if target < DEFAULT_FILES:
            _LOG.info("at most %d files can be open, the hard limit that ferryfsd was started with", target)
    return target


def _set_exactly(wanted: int, hard: int, path: str) -> None:
    maximum = _kernel_maximum(path)
    if wanted > maximum:
        raise OptionError(f"--rlimit-nofile={wanted}: the kernel allows {maximum} at most (sysctl fs.nr_open)")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    except (OSError, ValueError):
        raise OptionError(
            f"--rlimit-nofile={wanted}: is above the hard limit {hard} of whoever starts ferryfsd, raise that (ulimit "
            "-Hn, or LimitNOFILE= in a systemd unit)"
        ) from None
