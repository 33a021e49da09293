"""A running guest moves from one QEMU and daemon to another, or through a file, with everything it holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from daemons import REFERENCES, StartDaemon, daemon_command

from ferryfs.guest import moving
from ferryfs.guest.backend import Backend
from ferryfs.guest.busy import BusyGuest, fill
from ferryfs.guest.command_line import Share
from ferryfs.guest.machine import Guest
from vm.conftest import MOUNT_POINT, TAG, Boot

MEMORY = 256
MODES = {
    "find-paths": ("--migration-mode=find-paths",),
    "file-handles": ("--migration-mode=file-handles", "--modcaps=+dac_read_search"),
}


class Place:
    """Starts guests whose daemons all serve one directory."""

    def __init__(self, start_daemon: StartDaemon, boot: Boot, shared: Path) -> None:
        self.shared = shared
        self._start_daemon = start_daemon
        self._boot = boot

    def guest(self, command: tuple[str, ...], options: tuple[str, ...], *, incoming: str = "") -> tuple[Guest, Backend]:
        """A guest with a daemon of its own."""
        backend = self._start_daemon(command, self.shared, options)
        return self.boot(backend.socket, incoming), backend

    def backend(self, command: tuple[str, ...], options: tuple[str, ...]) -> Backend:
        """A daemon alone, which may complain about what it loads."""
        return self._start_daemon(command, self.shared, options)

    def boot(self, socket: Path, incoming: str) -> Guest:
        """A guest with a daemon that runs already."""
        return self._boot(Share(TAG, socket), memory=MEMORY, cpus=1, incoming=incoming)


@pytest.fixture
def place(start_daemon: StartDaemon, boot: Boot, tmp_path: Path) -> Place:
    shared = tmp_path / "shared"
    shared.mkdir()
    fill(shared)
    return Place(start_daemon, boot, shared)


@pytest.fixture(params=MODES)
def options(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The options of both daemons of a migration."""
    return MODES[request.param]


def mounted(guest: Guest) -> Guest:
    guest.check(f"mount -t virtiofs {TAG} {MOUNT_POINT}")
    return guest


def test_there_and_back(place: Place, own: tuple[str, ...], options: tuple[str, ...]) -> None:
    """A to B to a new A, at work all the time; each source's daemon ends with its QEMU."""
    guest, backend = place.guest(own, options)
    busy = BusyGuest(mounted(guest), place.shared)
    for word in ("there", "back"):
        destination, next_backend = place.guest(own, options, incoming="defer")
        moving.move(guest, destination)
        guest.stop()
        assert backend.wait() == 0
        guest, backend = destination, next_backend
        busy.look(guest, word)
    assert busy.end(guest) > 0
    guest.check(f"umount {MOUNT_POINT}")


def test_to_the_references_and_back(place: Place, own: tuple[str, ...]) -> None:
    """Ours to each virtiofsd and back to ours: file handles, which it can open the nameless file by.

    Nothing is renamed meanwhile: its own collecting does not survive that.
    """
    options = MODES["file-handles"]
    guest, _ = place.guest(own, options)
    busy = BusyGuest(mounted(guest), place.shared, renames=False)
    for command in (daemon_command(REFERENCES[0]), own, daemon_command(REFERENCES[1]), own):
        destination, _ = place.guest(command, options, incoming="defer")
        moving.move(guest, destination)
        guest.stop()
        guest = destination
        busy.look(guest, Path(command[0]).name)
    assert busy.end(guest) > 0


def test_a_file_restored_twice(place: Place, own: tuple[str, ...], options: tuple[str, ...], tmp_path: Path) -> None:
    """A snapshot: both fresh daemons go on from the same state, also with the file that has no name any more."""
    guest, backend = place.guest(own, (*options, "--migration-unlinked=carry"))
    mounted(guest).check("mkfifo /tmp/go /tmp/said")
    program = (
        f"cd {MOUNT_POINT} && exec 3<held 4<>gone && rm gone && echo kept >&4 && read -r line <&3 && echo >/tmp/said"
        " && read -r word </tmp/go && read -r line <&3 && echo $word $line && cat /proc/self/fd/4"
    )
    name = guest.agent.start(program)
    guest.check("cat /tmp/said")
    file = tmp_path / "snapshot"
    moving.save(guest, file)
    inspected = subprocess.run(
        [str(Path(sys.executable).with_name("ferryfs")), "inspect", "--json", os.fspath(file)],
        capture_output=True,
        text=True,
        check=True,
    )
    [state] = json.loads(inspected.stdout)
    assert (state["loadable"], state["device"].endswith("/vhost-user-fs")) == (True, True)
    guest.stop()
    assert backend.wait() == 0
    for word in ("first", "second"):
        restored, _ = place.guest(own, options, incoming="defer")
        restored.agent.follow(guest.agent)
        moving.restore(restored, file)
        restored.check(f"echo {word} >/tmp/go")
        assert restored.agent.result(name) == (0, f"{word} line 0001\nkept\n")
        assert "00000-" in restored.check(f"ls {MOUNT_POINT}/many")
        restored.stop()


def test_a_cancelled_migration_leaves_the_guest_at_work(
    place: Place, own: tuple[str, ...], options: tuple[str, ...]
) -> None:
    """Cancelled while memory travels; the same daemon then migrates for good."""
    guest, _ = place.guest(own, options)
    busy = BusyGuest(mounted(guest), place.shared)
    destination, other = place.guest(own, options, incoming="defer")
    uri = f"unix:{destination.folder / 'migration'}"
    moving.listen(destination, uri)
    moving.start(guest, uri, capabilities=["return-path"], bandwidth=moving.SLOW_BYTES)
    moving.reached(guest, "active")
    busy.look(guest, "collecting")
    guest.monitor.execute("migrate_cancel")
    assert moving.ended(guest) == moving.CANCELLED
    busy.look(guest, "cancelled")
    destination.stop()
    assert other.wait() == 0
    again, _ = place.guest(own, options, incoming="defer")
    moving.move(guest, again)
    guest.stop()
    busy.look(again, "moved")
    assert busy.end(again) > 0


def test_what_is_killed_while_memory_travels(place: Place, own: tuple[str, ...], options: tuple[str, ...]) -> None:
    """The destination's daemon, then its QEMU: the guest goes on. Then the source's QEMU: both daemons end well."""
    guest, source = place.guest(own, options)
    busy = BusyGuest(mounted(guest), place.shared)

    def begin(destination: Guest) -> None:
        uri = f"unix:{destination.folder / 'migration'}"
        moving.listen(destination, uri)
        moving.start(guest, uri, capabilities=["return-path"], bandwidth=moving.SLOW_BYTES)
        moving.reached(guest, "active")

    backend = Backend(own, place.shared, place.shared.parent / "killed", place.shared.parent / "killed.log", options)
    with backend:
        destination = place.boot(backend.socket, "defer")
        begin(destination)
        backend.kill()
        moving.hurry(guest)
        assert moving.ended(guest) == moving.FAILED
    busy.look(guest, "no daemon there")

    destination, other = place.guest(own, options, incoming="defer")
    begin(destination)
    destination.kill()
    assert moving.ended(guest) == moving.FAILED
    assert other.wait() == 0
    busy.look(guest, "no QEMU there")
    assert busy.end(guest) > 0

    destination, other = place.guest(own, options, incoming="defer")
    begin(destination)
    guest.kill()
    assert (source.wait(), other.wait()) == (0, 0)


def test_a_snapshot_whose_file_was_deleted(place: Place, own: tuple[str, ...], tmp_path: Path) -> None:
    """A file that the guest has open is gone when it is restored.

    With ``abort`` the guest is not restored, and the log names the file. With ``guest-error`` it is: its open file
    gives ENOENT, the kind of the failure, and everything else is as it was.
    """
    guest, _ = place.guest(own, ())
    (place.shared / "other").write_text("first\nsecond\n")
    mounted(guest).check("mkfifo /tmp/go /tmp/said")
    program = (
        f"cd {MOUNT_POINT} && exec 3<held 4<other && read -r line <&3 && read -r line <&4 && echo >/tmp/said"
        " && read -r word </tmp/go && cat <&4 && cat many/../held; stat -L /proc/self/fd/3"
    )
    name = guest.agent.start(program)
    guest.check("cat /tmp/said; echo 3 >/proc/sys/vm/drop_caches")
    file = tmp_path / "snapshot"
    moving.save(guest, file)
    guest.stop()
    (place.shared / "held").unlink()

    refusing = place.backend(own, ("--migration-on-error=abort",))
    with pytest.raises(moving.MoveError):
        moving.restore(place.boot(refusing.socket, "defer"), file)
    assert refusing.wait() == 0
    assert "'held'" in refusing.log_text()

    restored, _ = place.guest(own, ("--migration-on-error=guest-error",), incoming="defer")
    restored.agent.follow(guest.agent)
    moving.restore(restored, file)
    restored.check("echo go >/tmp/go")
    result = restored.agent.result(name)
    assert result.output.splitlines()[0] == "second"
    assert result.output.count("No such file or directory") == 2, result.output
    assert restored.check(f"cat {MOUNT_POINT}/other") == "first\nsecond\n"
