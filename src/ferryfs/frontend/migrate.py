"""Moving a mount from one daemon to another, or its state into a file, while the kernel's mount stays.

The phases are those of a virtual machine's migration: announce (the source collects locations while requests go on),
stop, save, load, start. Whatever fails before the destination is started, the source goes on serving. Until the rings
are stopped, whoever asked for it can give it up.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import stat
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ferryfs.errors import CancelledError, OptionError, PeerError, StateError
from ferryfs.frontend.attachment import Attachment, negotiate
from ferryfs.frontend.client import VhostUserClient
from ferryfs.frontend.control import Answer
from ferryfs.frontend.mount import Mount
from ferryfs.frontend.state import STALL_S, load_state, save_state
from ferryfs.wire.fuse import INIT_OUT, OUT_HEADER, InitFlag
from ferryfs.wire.vhost_user import ProtocolFeature

CONNECT_TIMEOUT_S: Final = 5.0
DRAIN_TIMEOUT_S: Final = 60.0
COLLECT_S: Final = 0.5
"""How long the source may collect before it is stopped, unless asked otherwise; QEMU's pre-copy seldom takes less."""
FIRST_ANSWER_TIMEOUT_S: Final = 10.0
UNLOOKED_S: Final = 3.0
"""After how long without an answer the destination is taken for one that waits for a kick."""
_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}


class Phases:
    """What was done, and how long each step took."""

    def __init__(self) -> None:
        self.seconds: list[tuple[str, float]] = []
        self._since = time.monotonic()

    def done(self, name: str) -> None:
        now = time.monotonic()
        self.seconds.append((name, now - self._since))
        self._since = now


class Mover:
    """The commands ``migrate`` and ``save`` of one mount; ``install`` adds them to its control socket."""

    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        self.last_size = 0
        # Whether the destination of the last migration served nothing until it was kicked.
        self.kicked = False

    def install(self) -> None:
        self._mount.handlers["migrate"] = self._migrate_command
        self._mount.handlers["save"] = self._save_command

    def _migrate_command(self, request: Mapping[str, Any]) -> Answer:
        phases = self.migrate(
            str(request["destination"]),
            drain=bool(request.get("drain", True)),
            collect_s=float(request.get("collect_s", COLLECT_S)),
        )
        return {"phases": phases.seconds, "bytes": self.last_size, "kicked": self.kicked}

    def _save_command(self, request: Mapping[str, Any]) -> Answer:
        phases = self.save(
            Path(str(request["file"])),
            drain=bool(request.get("drain", True)),
            collect_s=float(request.get("collect_s", COLLECT_S)),
        )
        return {"phases": phases.seconds, "bytes": self.last_size}

    def migrate(self, destination: str, *, drain: bool, collect_s: float) -> Phases:
        """Moves the mount to the daemon that listens on ``destination``.

        ``drain``: lets all requests end first; else those in flight are left in the rings for the destination, as a
        monitor does. Raises PeerError or SetupError; then the source serves on, unless the sentence says otherwise.
        """
        mount = self._mount
        source = mount.attachment
        phases = Phases()
        # A daemon that has a front-end already accepts no second one: its answer would be waited for in vain.
        client = VhostUserClient.connect(destination, timeout_s=CONNECT_TIMEOUT_S)
        try:
            self._check_destination(client, destination)
            target = Attachment(client, mount.ram, mount.queues, source.features)
            client.set_timeout(STALL_S)
            phases.done("connect")
            self._announce(source, collect_s)
            phases.done("collect")
            bases = self._stop(source, drain, phases)
            try:
                state = self._save(source, phases)
                load_state(client, state)
                phases.done("load")
                target.introduce()
                target.start(bases)
            except BaseException as error:
                self._resume_after(error, source, bases)
                raise
        except BaseException:
            client.close()
            raise
        mount.replace_attachment(target)
        mount.daemon = None
        mount.start_readers()
        phases.done("start")
        if self._first_answer():
            phases.done("first answer")
        return phases

    def save(self, file: Path, *, drain: bool, collect_s: float) -> Phases:
        """Writes the state to ``file`` and what the kernel negotiated beside it; the mount goes on with the same
        daemon.
        """
        source = self._mount.attachment
        phases = Phases()
        check_snapshot_place(file)
        self._announce(source, collect_s)
        phases.done("collect")
        bases = self._stop(source, drain, phases)
        try:
            state = self._save(source, phases)
        except BaseException as error:
            self._resume_after(error, source, bases)
            raise
        self._resume(source, bases)
        phases.done("start")
        write_snapshot(file, state, self._mount.pump.init_answer)
        phases.done("write")
        return phases

    def _check_destination(self, client: VhostUserClient, destination: str) -> None:
        mount = self._mount
        features = negotiate(client, queues=len(mount.queues))
        missing = mount.attachment.features & ~features
        if missing:
            raise PeerError(f"The daemon at {destination} lacks features that the mount uses: {missing:#x}.")
        for place, who in ((client, f"daemon at {destination}"), (mount.attachment.client, "daemon that serves now")):
            if not place.has(ProtocolFeature.DEVICE_STATE):
                raise PeerError(f"The {who} can't transfer its state (it does not offer DEVICE_STATE).")

    def _announce(self, source: Attachment, collect_s: float) -> None:
        if source.client.has(ProtocolFeature.LOG_SHMFD) and not source.logging:
            source.start_logging()
        try:
            self._wait(source, collect_s)
        except BaseException:
            source.stop_logging()
            raise

    def _wait(self, source: Attachment, seconds: float) -> None:
        """Lets the daemon collect. Raises PeerError when it goes, CancelledError when nobody wants it to go on."""
        asker = self._mount.asker
        watch = select.poll()
        watch.register(source.client, select.POLLIN)
        if asker is not None:
            watch.register(asker, select.POLLIN)
        until = time.monotonic() + seconds
        while True:
            left = until - time.monotonic()
            ready = {fd for fd, _ in watch.poll(max(0.0, left) * 1000)}
            if source.client.fileno() in ready:
                raise PeerError("The daemon went away while it collected.")
            self._check_wanted()
            if left <= 0:
                return
            if asker is not None and asker.fileno() in ready:
                # It has closed its writing half. That it hangs up altogether is noticed without being asked for.
                watch.modify(asker, 0)

    def _check_wanted(self) -> None:
        """Raises CancelledError when who asked for this has given it up."""
        asker = self._mount.asker
        if asker is not None and asker.gave_up():
            raise CancelledError(f"Cancelled; the daemon goes on serving {self._mount.options.mountpoint}.")

    def _stop(self, source: Attachment, drain: bool, phases: Phases) -> list[int]:
        mount = self._mount
        mount.stop_readers()
        try:
            if drain and not mount.pump.wait_idle(DRAIN_TIMEOUT_S):
                raise PeerError(
                    f"The daemon still has requests in flight after {DRAIN_TIMEOUT_S:.0f} s: try --no-drain."
                )
            # The last moment at which nothing has happened yet.
            self._check_wanted()
        except BaseException:
            source.stop_logging()
            mount.start_readers()
            raise
        phases.done("drain" if drain else "pause")
        bases = source.stop()
        phases.done("stop rings")
        return bases

    def _save(self, source: Attachment, phases: Phases) -> bytes:
        state = save_state(source.client)
        self.last_size = len(state)
        phases.done("save")
        return state

    def _resume_after(self, error: BaseException, source: Attachment, bases: list[int]) -> None:
        """Whatever it was: without this nobody would serve the kernel any more. Raises PeerError when nobody does."""
        try:
            self._resume(source, bases)
        except PeerError as second:
            raise PeerError(f"{error} The mount's own daemon does not serve on: {second}") from error

    def _resume(self, source: Attachment, bases: list[int]) -> None:
        """The source serves on, exactly where it was stopped."""
        source.stop_logging()
        source.introduce()
        source.start(bases)
        self._mount.start_readers()

    def _first_answer(self) -> bool:
        """Asks the kernel something that it has to ask the daemon. False when that takes too long for a measure.

        A request that was queued when the source had stopped already has had its kick, and no later one is above the
        ring's avail_event: a destination that does not look at its rings by itself never serves it, nor any other
        (virtiofsd 1.13 and 1.14 now and then). A monitor leaves it at that; here it gets a kick.
        """
        self.kicked = False
        asker = threading.Thread(target=self._ask_statfs, name="first-answer", daemon=True)
        asker.start()
        asker.join(UNLOOKED_S)
        if asker.is_alive():
            self.kicked = True
            self._mount.attachment.kick()
            asker.join(FIRST_ANSWER_TIMEOUT_S - UNLOOKED_S)
        return not asker.is_alive()

    def _ask_statfs(self) -> None:
        try:
            os.statvfs(self._mount.options.mountpoint)
        except OSError:
            return


def snapshot_companion(file: Path) -> Path:
    """Where ``save`` puts what belongs to the kernel's side of a mount: the state is only the daemon's."""
    return file.with_name(file.name + ".mount")


def check_snapshot_place(file: Path) -> None:
    """Whether a state can be written there: both its files are new, or replace files. Raises OptionError."""
    if not file.parent.is_dir():
        raise OptionError(f"The folder of {file} does not exist.")
    for path in (file, snapshot_companion(file)):
        try:
            kind = stat.S_IFMT(path.lstat().st_mode)
        except OSError:
            continue
        if kind != stat.S_IFREG:
            what = _KINDS.get(kind, "a device")
            raise OptionError(f"{path} is {what}; the state goes into a file, and another one beside it.")


def write_snapshot(file: Path, state: bytes, init_answer: bytes) -> None:
    """Writes both files whole or not at all. Raises OptionError.

    Both are there under other names before the first one gets its own. Should the power fail in between, the old state
    has the new companion, which says so: each companion knows its state.
    """
    check_snapshot_place(file)
    companion = {"format": 1, "init_answer": init_answer.hex(), "state_sha256": hashlib.sha256(state).hexdigest()}
    contents = {snapshot_companion(file): json.dumps(companion).encode() + b"\n", file: state}
    scratches = {path: path.with_name(path.name + ".partial") for path in contents}
    try:
        try:
            for path, data in contents.items():
                _write_whole(scratches[path], data)
            for path, scratch in scratches.items():
                scratch.replace(path)
        finally:
            for scratch in scratches.values():
                scratch.unlink(missing_ok=True)
    except OSError as error:
        raise OptionError(f"{file} can't be written: {error.strerror}.") from error


def _write_whole(path: Path, data: bytes) -> None:
    """A new file, on the disk when this returns. What an earlier save left under the name goes. Raises OSError."""
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(fd)


def read_snapshot(file: Path) -> tuple[bytes, bytes]:
    """The state in ``file``, and the answer to give to the kernel's INIT: what was negotiated when it was saved, else
    (for a state that came from elsewhere) the least that every daemon does. Raises StateError.
    """
    try:
        state = file.read_bytes()
    except OSError as error:
        raise StateError(f"The state {file} can't be read: {error.strerror}.") from error
    try:
        companion = json.loads(snapshot_companion(file).read_bytes())
        init_answer = bytes.fromhex(companion["init_answer"])
        saved = companion.get("state_sha256")
    except FileNotFoundError:
        return state, _least_init_answer()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StateError(f"{snapshot_companion(file)} is not what `ferryfs save` writes: {error}.") from error
    if saved is not None and saved != hashlib.sha256(state).hexdigest():
        raise StateError(f"{snapshot_companion(file)} was saved with another state than {file}: save once more.")
    return state, init_answer


def _least_init_answer() -> bytes:
    flags = InitFlag.ASYNC_READ | InitFlag.BIG_WRITES | InitFlag.PARALLEL_DIROPS | InitFlag.MAX_PAGES
    body = INIT_OUT.pack(
        major=7, minor=31, max_readahead=1 << 20, flags=flags, max_write=1 << 20, time_gran=1, max_pages=256
    )
    return OUT_HEADER.pack(len=OUT_HEADER.size + len(body)) + body


def restore(client: VhostUserClient, file: Path) -> bytes:
    """Loads the state in ``file`` into a fresh daemon; returns the answer for the kernel's INIT. Raises StateError,
    PeerError.
    """
    state, init_answer = read_snapshot(file)
    if not client.has(ProtocolFeature.DEVICE_STATE):
        raise PeerError("The daemon can't load a state (it does not offer DEVICE_STATE).")
    load_state(client, state)
    return init_answer
