"""Moving a state's bytes: two ends without any I/O, and the thin thread that pumps a file descriptor for them.

``Incoming`` takes bytes by ``feed`` and gives the whole at the end; ``Outgoing`` gives them piece by piece. They know
no fd. ``Transfer`` runs one of them in a thread: SET_DEVICE_STATE_FD is answered before data flows, because the
front-end begins to read (or write) only then, and a pipe would deadlock.

Some facts about the fd. The front-end chooses it: QEMU a pipe, others a socket or a file. The end of the stream is
the end of file, so closing the fd is the last act of a save, also of a failed one: CHECK_DEVICE_STATE tells the
difference. poll(2) says that a pipe takes *something*, but a blocking write of more than that waits for the rest, so
the fd is made non-blocking; the front-end's own end of the pipe is another open file description and does not notice.
A reader that goes away raises SIGPIPE, which would end the daemon: it is blocked in this thread, and the write fails
with EPIPE.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import mmap
import os
import select
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final, final

from ferryfs.errors import FerryError, StateError

# One read, and what a pipe is asked to hold where nobody has chosen: QEMU writes 1 MiB at a time.
READ_BYTES: Final = 1 << 20
DEFAULT_PIPE_BYTES: Final = 1 << 16
# Room for the stream at first: address space, of which only what is read into becomes memory.
FIRST_BYTES: Final = 16 << 20
# Small pieces of the stream are joined up to this, so that a million records are not a million writes.
WRITE_BYTES: Final = 1 << 16
# The largest stream that is taken: 10 M inodes with long names and identities, and 64 MiB of unlinked content, fit
# four times.
STREAM_LIMIT_BYTES: Final = 4 << 30


class Incoming:
    """Collects a stream that comes in: read into ``room``, and say by ``filled`` how much it was.

    One mapping, which grows where it stands: what nobody has touched costs nothing.
    """

    def __init__(self, limit_bytes: int = STREAM_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        # Bytes so far.
        self.size = 0
        self._memory = mmap.mmap(-1, FIRST_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def room(self) -> memoryview:
        """Where the next bytes go. To be released before it is asked for again."""
        if len(self._memory) - self.size < READ_BYTES:
            self._memory.resize(2 * len(self._memory))
        return memoryview(self._memory)[self.size : self.size + READ_BYTES]

    def filled(self, count: int) -> None:
        """So many bytes came. Raises StateError when there are more than the limit."""
        self.size += count
        if self.size > self._limit_bytes:
            raise StateError(
                f"the incoming state is larger than {self._limit_bytes} bytes, which is taken for an endless one"
            )

    def finish(self) -> memoryview:
        """The end of the stream: all of it."""
        return memoryview(self._memory)[: self.size].toreadonly()


class Outgoing:
    """Hands out a stream in pieces of a sensible size, whatever pieces it was made in. Holds one such piece at most."""

    def __init__(self, pieces: Iterable[bytes | memoryview]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes | memoryview]:
        joined = bytearray()
        for piece in self._pieces:
            if len(joined) + len(piece) < WRITE_BYTES:
                joined += piece
                continue
            if joined:
                yield bytes(joined)
                joined.clear()
            if len(piece) < WRITE_BYTES:
                joined += piece
            else:
                yield piece
        if joined:
            yield bytes(joined)


class Outcome(enum.Enum):
    """How a transfer stands."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class _Cancelled(Exception):
    """Leaves the pump."""


@final
class Transfer:
    """One transfer in a thread of its own. Owns the fd that it is given, and closes it when it ends, however that is.

    ``save`` and ``load`` start one. ``cancel`` may be called from any thread, at any time, more than once.
    """

    def __init__(
        self, fd: int, wrong_access: int, work: Callable[[Transfer], None], finished: Callable[[], None] | None
    ) -> None:
        self.outcome = Outcome.RUNNING
        # What went wrong: of FAILED.
        self.error: FerryError | None = None
        # Bytes that went through so far.
        self.bytes_moved = 0
        # What was loaded: of DONE.
        self.data = memoryview(b"")
        self._fd = fd
        self._wrong_access = wrong_access
        self._work = work
        self._finished = finished
        self._poll = select.poll()
        self._cancel_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # Guards _cancel_fd against being closed while cancel() writes to it. A signal in the middle may cancel as well.
        self._lock = threading.RLock()
        self._thread = threading.Thread(target=self._run, name="state-transfer", daemon=True)
        self._thread.start()

    @classmethod
    def save(
        cls, fd: int, pieces: Iterable[bytes | memoryview], finished: Callable[[], None] | None = None
    ) -> Transfer:
        """Writes ``pieces`` to ``fd``. ``pieces`` is run in the thread; ``finished`` is called there at the end."""

        def work(transfer: Transfer) -> None:
            for piece in Outgoing(pieces):
                transfer._write(piece)

        return cls(fd, os.O_RDONLY, work, finished)

    @classmethod
    def load(
        cls, fd: int, finished: Callable[[], None] | None = None, limit_bytes: int = STREAM_LIMIT_BYTES
    ) -> Transfer:
        """Reads ``fd`` to its end; then ``data`` has it all. ``finished`` is called in the thread at the end."""

        def work(transfer: Transfer) -> None:
            incoming = Incoming(limit_bytes)
            while count := transfer._read(incoming):
                incoming.filled(count)
            transfer.data = incoming.finish()

        return cls(fd, os.O_WRONLY, work, finished)

    def cancel(self) -> None:
        """Ends it soon, with CANCELLED; does nothing to one that has ended. Does not wait."""
        with self._lock:
            if self._cancel_fd >= 0:
                os.eventfd_write(self._cancel_fd, 1)

    def wait(self, timeout_seconds: float | None = None) -> Outcome:
        """Waits for the end; RUNNING when the time is up."""
        self._thread.join(timeout_seconds)
        return Outcome.RUNNING if self._thread.is_alive() else self.outcome

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
        outcome = Outcome.FAILED
        try:
            self._check_direction()
            with contextlib.suppress(OSError):  # a regular file may refuse, and needs it not
                os.set_blocking(self._fd, False)
            with contextlib.suppress(OSError):  # no pipe, or the user has too many
                if fcntl.fcntl(self._fd, fcntl.F_GETPIPE_SZ) == DEFAULT_PIPE_BYTES:
                    fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, READ_BYTES)
            self._poll.register(self._cancel_fd, select.POLLIN)
            self._poll.register(self._fd, select.POLLIN if self._wrong_access == os.O_WRONLY else select.POLLOUT)
            self._work(self)
            outcome = Outcome.DONE
        except _Cancelled:
            outcome = Outcome.CANCELLED
        except FerryError as error:
            self.error = error
        except OSError as error:
            self.error = StateError(
                f"the state could not be moved: after {self.bytes_moved} bytes the front-end's file descriptor gave "
                f"{error.strerror!r}"
            )
        finally:
            with self._lock:
                os.close(self._cancel_fd)
                self._cancel_fd = -1
            os.close(self._fd)
            self.outcome = outcome
            if self._finished is not None:
                self._finished()

    def _check_direction(self) -> None:
        """poll(2) would wait for ever for what the fd was not opened for."""
        if fcntl.fcntl(self._fd, fcntl.F_GETFL) & os.O_ACCMODE == self._wrong_access:
            raise StateError("the front-end's file descriptor for the state was opened for the other direction")

    def _wait(self) -> None:
        """Until the fd takes or has something."""
        if any(fd == self._cancel_fd for fd, _ in self._poll.poll()):
            raise _Cancelled

    def _write(self, piece: bytes | memoryview) -> None:
        view = memoryview(piece)
        while view:
            self._wait()
            try:
                count = os.write(self._fd, view)
            except BlockingIOError:
                continue
            self.bytes_moved += count
            view = view[count:]

    def _read(self, incoming: Incoming) -> int:
        while True:
            self._wait()
            with incoming.room() as room:
                try:
                    count = os.readv(self._fd, [room])
                except BlockingIOError:
                    continue
            self.bytes_moved += count
            return count
