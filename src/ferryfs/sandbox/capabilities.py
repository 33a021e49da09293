"""Linux capabilities: their names, and which of them the daemon keeps.

The daemon needs to act as any guest user on the shared tree, and nothing else. What it keeps is what virtiofsd keeps,
each with the request that needs it; ``--modcaps`` adds and removes. The inheritable and ambient sets are always empty
and no_new_privs is set, so nothing could pass a capability on.
"""

from __future__ import annotations

from collections.abc import Iterable

from ferryfs.errors import OptionError, SetupError
from ferryfs.passthrough.config import HandleMode
from ferryfs.sandbox import _linux

# linux/capability.h; the position is the number.
_NAMES = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
]

CAPABILITIES: dict[str, int] = {name: number for number, name in enumerate(_NAMES)}

KEPT: dict[str, str] = {
    "chown": "SETATTR of uid and gid",
    "dac_override": "every access: permission is checked by the guest's kernel, with the guest's users",
    "fowner": "SETATTR of mode and times, xattrs, and O_NOATIME on files of other users",
    "fsetid": "set-user-id and set-group-id bits survive a change unless the guest's kernel asks to drop them",
    "setgid": "creating as the guest's group",
    "setuid": "creating as the guest's user",
    "mknod": "MKNOD of devices",
    "setfcap": "the xattr security.capability",
}


def wanted(handles: HandleMode, changes: Iterable[str]) -> frozenset[str]:
    """The capabilities to keep, by name. ``changes`` are ``+name`` and ``-name``, the last about a name counts.

    Raises ``OptionError`` when the changes take away what ``--inode-file-handles=mandatory`` can't do without.
    """
    names = set(KEPT)
    if handles is not HandleMode.NEVER:
        names.add("dac_read_search")
    for change in changes:
        if change[0] == "+":
            names.add(change[1:])
        else:
            names.discard(change[1:])
    if handles is HandleMode.MANDATORY and "dac_read_search" not in names:
        raise OptionError(
            "--modcaps=-dac_read_search takes away what --inode-file-handles=mandatory needs, remove one of the two"
        )
    return frozenset(names)


def mask(names: Iterable[str]) -> int:
    """The bit mask of ``capset(2)`` for some names."""
    return sum(1 << CAPABILITIES[name] for name in set(names))


def names_of(bits: int) -> list[str]:
    """The names in a mask, by number; capabilities newer than this table as ``cap_N``."""
    return [_NAMES[number] if number < len(_NAMES) else f"cap_{number}" for number in range(64) if bits >> number & 1]


def missing(effective: int, names: Iterable[str]) -> list[str]:
    """Which of ``names`` the mask ``effective`` lacks."""
    return [
        name for name in sorted(set(names), key=CAPABILITIES.__getitem__) if not effective >> CAPABILITIES[name] & 1
    ]


def refuse_in_vain(lacking: Iterable[str], changes: Iterable[str]) -> None:
    """Raises ``OptionError`` when one of ``lacking`` was asked for by ``+name``."""
    added = set(changes)
    for name in lacking:
        if f"+{name}" in added:
            raise OptionError(
                f"--modcaps=+{name}: ferryfsd was started without CAP_{name.upper()}, start it with that capability "
                "(as root outside a container it has it), or leave the option out"
            )


def read_status(field: str = "CapEff", status: str = "/proc/self/status") -> int:
    """A capability mask of this process from proc(5)."""
    with open(status, encoding="ascii", errors="replace") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name == field:
                return int(value, 16)
    raise SetupError(f"{status} has no line {field}, mount a proc file system at /proc")


def drop_to(names: Iterable[str]) -> int:
    """Keep of the permitted capabilities only ``names``, for good; returns what is left as a mask.

    The bounding, inheritable and ambient sets end empty of everything else, and no_new_privs is set: neither a thread
    nor anything that could be executed gets more again. Only before other threads exist.
    """
    keep = mask(names)
    _, permitted, _ = _linux.capget()
    if permitted >> CAPABILITIES["setpcap"] & 1:
        for number in range(64):
            try:
                present = _linux.prctl(_PR_CAPBSET_READ, number)
            except OSError:
                # One more than the last that this kernel has.
                break
            if present and not keep >> number & 1:
                _linux.prctl(_PR_CAPBSET_DROP, number)
    _linux.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _linux.capset(permitted & keep, permitted & keep, 0)
    _linux.prctl(_PR_SET_NO_NEW_PRIVS, 1)
    return permitted & keep


# linux/prctl.h
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
