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
    except OSError as error:
        raise SetupError(
            f"--{kind}-map {wanted}: needs the program {program} ({error.strerror}), install it (package uidmap)"
        ) from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise SetupError(
            f"--{kind}-map {wanted} is refused ({said}), add a line USER:FIRST:COUNT to {_FILES[kind]} that "
            "contains the range"
        )


class Plan:
    """What the ids of a namespace that is about to be made will be; made before, while programs can still be
    started."""

    def __init__(self, uid_map: Sequence[IdMapping] = (), gid_map: Sequence[IdMapping] = ()) -> None:
        self._maps = (("uid", uid_map, os.geteuid()), ("gid", gid_map, os.getegid()))
        by_program = [(kind, mappings) for kind, mappings, own in self._maps if _needs_program(mappings, own)]
        self._helper = Helper(by_program) if by_program else None

    def apply(self) -> None:
        """In the new namespace: write the maps and become its root, where it has one. Raises ``SetupError``."""
        if self._helper is not None:
            self._helper.map_ids()
        try:
            for kind, mappings, own in self._maps:
                if _needs_program(mappings, own):
                    continue
                if kind == "gid":
                    # The kernel's condition without privilege: else one could leave a group that denies access.
                    _write("/proc/self/setgroups", "deny")
                inside = mappings[0].inside if mappings else own
                _write(f"/proc/self/{kind}_map", f"{inside} {own} 1")
        except OSError as error:
            raise SetupError(
                f"--sandbox=namespace: the ids of the user namespace can't be set: {error.strerror}"
            ) from None
        # As root inside, files are created as the guest's users; where 0 is not mapped, only as ourselves.
        (_, uids, _), (_, gids, _) = self._maps
        if any(mapping.inside == 0 for mapping in gids):
            os.setresgid(0, 0, 0)
        if any(mapping.inside == 0 for mapping in uids):
            os.setresuid(0, 0, 0)


def _needs_program(mappings: Sequence[IdMapping], own: int) -> bool:
    return bool(mappings) and (len(mappings) != 1 or mappings[0].outside != own or mappings[0].length != 1)


def _write(path: str, text: str) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(text.encode())
