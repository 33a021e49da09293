"""The ids of a user namespace: ``--uid-map`` and ``--gid-map`` (``user_namespaces(7)``).

Without privilege a process may map its own id alone; ranges from ``/etc/subuid`` are written by the set-user-id
programs newuidmap(1) and newgidmap(1), which must run outside the new namespace.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from ferryfs.errors import SetupError

_FILES = {"uid": "/etc/subuid", "gid": "/etc/subgid"}


class IdMapping(NamedTuple):
    """One line of uid_map or gid_map: ``length`` ids from ``inside`` are those from ``outside``."""

    inside: int
    outside: int
    length: int


class Helper:
    """A process that was forked before the namespace was made, and runs the two programs for it."""

    def __init__(self, kinds: Sequence[tuple[str, Sequence[IdMapping]]]) -> None:
        self._go_reader, self._go_writer = os.pipe()
        self._answer_reader, self._answer_writer = os.pipe()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._go_writer)
            os.close(self._answer_reader)
            self._run(parent, kinds)

    def map_ids(self) -> None:
        """To be called inside the new namespace. Raises ``SetupError`` with what the program said."""
        os.close(self._go_reader)
        os.close(self._answer_writer)
        os.write(self._go_writer, b"!")
        os.close(self._go_writer)
        with open(self._answer_reader, "rb") as reader:
            answer = reader.read().decode("utf-8", "replace").strip()
        _, status = os.waitpid(self._pid, 0)
        if status:
            raise SetupError(answer or "the helper that maps the ids died")

    def _run(self, parent: int, kinds: Sequence[tuple[str, Sequence[IdMapping]]]) -> NoReturn:
        status = 1
        try:
            if os.read(self._go_reader, 1) == b"!":
                for kind, mappings in kinds:
                    _run_program(kind, parent, mappings)
                status = 0
        except SetupError as error:
            os.write(self._answer_writer, str(error).encode())
        finally:
            os._exit(status)


def _run_program(kind: str, pid: int, mappings: Sequence[IdMapping]) -> None:
    # Only here: the module costs more than the rest of a start.
    import subprocess

    program = f"new{kind}map"
    arguments = [str(number) for mapping in mappings for number in mapping]
    wanted = " ".join(f":{mapping.inside}:{mapping.outside}:{mapping.length}:" for mapping in mappings)
    try:
        done = subprocess.run([program, str(pid), *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise SetupError(f"--{kind}-map {wanted} needs the program {program}, install it (package uidmap)") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise SetupError(
            f"--{kind}-map {wanted}: {program} refused it ({said}), add a line USER:FIRST:COUNT to {_FILES[kind]} that "
            "contains the range"
        )


def prepare(uid_map: Sequence[IdMapping], gid_map: Sequence[IdMapping]) -> Helper | None:
    """Before the namespace is made: the helper, where one is needed."""
    needed = [
        (kind, mappings)
        for kind, mappings, own in (("uid", uid_map, os.geteuid()), ("gid", gid_map, os.getegid()))
        if _needs_program(mappings, own)
    ]
    return Helper(needed) if needed else None


def become_root_inside(
    helper: Helper | None, uid_map: Sequence[IdMapping], gid_map: Sequence[IdMapping], uid: int, gid: int
) -> None:
    """In the new namespace: write the maps and become its root, where it has one.

    ``uid`` and ``gid`` are the ids outside, as they were before.
    """
    if helper is not None:
        helper.map_ids()
    try:
        if not _needs_program(gid_map, gid):
            # The kernel's condition for a group map without privilege: else one could leave a group that denies access.
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/gid_map", _own(gid_map, gid))
        if not _needs_program(uid_map, uid):
            _write("/proc/self/uid_map", _own(uid_map, uid))
    except OSError as error:
        raise SetupError(f"--sandbox=namespace: the ids of the user namespace can't be set: {error.strerror}") from None
    # As root inside, files are created as the guest's users; where 0 is not mapped, only as ourselves.
    if any(mapping.inside == 0 for mapping in gid_map):
        os.setresgid(0, 0, 0)
    if any(mapping.inside == 0 for mapping in uid_map):
        os.setresuid(0, 0, 0)


def _needs_program(mappings: Sequence[IdMapping], own: int) -> bool:
    return bool(mappings) and (len(mappings) != 1 or mappings[0].outside != own or mappings[0].length != 1)


def _own(mappings: Sequence[IdMapping], own: int) -> str:
    inside = mappings[0].inside if mappings else own
    return f"{inside} {own} 1"


def _write(path: str, text: str) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(text.encode())
