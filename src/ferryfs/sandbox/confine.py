"""From a free process to a confined one, in the order in which it has to happen."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from typing import Final

from ferryfs.errors import OptionError
from ferryfs.passthrough.config import HandleMode
from ferryfs.sandbox import _linux, capabilities, closing, namespace, root, seccomp
from ferryfs.sandbox.idmappings import IdMapping, Plan
from ferryfs.sandbox.root import Confined

_LOG = logging.getLogger("ferryfs.sandbox")

MODES: Final = ("namespace", "chroot", "none")


def enter(
    mode: str,
    shared_dir: str,
    *,
    uid_map: Sequence[IdMapping] = (),
    gid_map: Sequence[IdMapping] = (),
    outer_closes: Sequence[int] = (),
) -> Confined:
    """Change the root and end all loading of code. In the mode ``namespace`` only the inner process returns."""
    root.check_shared(shared_dir)
    closing.preload()
    # It may start a process of its own, which must still be able to load what it needs.
    ids = Plan(uid_map, gid_map)
    root.drop_groups()
    closing.seal()
    if mode == "namespace":
        return namespace.enter(shared_dir, ids, outer_closes)
    return root.change_root(shared_dir) if mode == "chroot" else root.stay(shared_dir)


def give_up_rights(handles: HandleMode, modcaps: Iterable[str], system_calls: seccomp.Rules | None) -> None:
    """Drop the capabilities, then close the system call filter (None for no filter)."""
    changes = tuple(modcaps)
    wanted = capabilities.wanted(handles, changes)
    left = capabilities.drop_to(wanted)
    # Only root is expected to have them: for an ordinary user without a namespace there was nothing to keep.
    lacking = capabilities.missing(left, wanted) if os.geteuid() == 0 else []
    capabilities.refuse_in_vain(lacking, changes)
    if lacking:
        _LOG.info("started without the capabilities %s: requests that need them will fail", ", ".join(lacking))
    if system_calls is not None:
        system_calls.load()
        _LOG.debug("system calls are restricted by %d rules", system_calls.count)


def check_handles(confined: Confined, handles: HandleMode) -> None:
    """Whether file handles of the share can be made and opened: an ``OptionError`` with ``mandatory``, else a log line.

    Asked by doing it, because in a user namespace the capability is there and the call fails.
    """
    if handles is HandleMode.NEVER:
        return
    making, opening = handle_errors(confined)
    if not making and not opening:
        return
    if making:
        why = f"the file system of the share has none ({os.strerror(making)})"
    else:
        why = (
            f"file handles can't be opened ({os.strerror(opening)}), that needs root in the initial user namespace and "
            "CAP_DAC_READ_SEARCH"
        )
    if handles is HandleMode.MANDATORY:
        raise OptionError(f"--inode-file-handles=mandatory: {why}; write --inode-file-handles=prefer")
    _LOG.info("each file that the guest knows keeps a file of the daemon open: %s", why)


def handle_errors(confined: Confined) -> tuple[int, int]:
    """(errno of making a handle, errno of opening it), 0 for what works."""
    # An O_PATH descriptor can't name the file system that a handle is for.
    fd = os.open(str(confined.root_fd), os.O_RDONLY | os.O_CLOEXEC, dir_fd=confined.proc_self_fd)
    try:
        return _linux.try_file_handle(fd)
    finally:
        os.close(fd)
