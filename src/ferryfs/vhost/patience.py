"""The daemon's end does not wait for ever for a request that hangs in the host's file system.

A network file system whose server is gone, or a FUSE file system whose server stands still, keeps a worker in a system
call for as long as it likes, and with it whoever waits until nothing is in flight: the end of the connection,
GET_VRING_BASE, a change of the memory table. Such a call can't be interrupted; it ends with the process.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
from types import TracebackType
from typing import Final, Self

from ferryfs.errors import FerryError, SetupError

_LOG = logging.getLogger("ferryfs.vhost")

END_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PATIENCE_SECONDS: Final = 5


class Patience:
    """Ends the process when its end takes longer than PATIENCE_SECONDS; for a ``with`` block.

    The end begins when ``stop_fd`` becomes readable, or by ``ending``; it is over when the block is left, or by
    ``ended``. A daemon that is to outlive its connection (``stays``) is ended by ``stop_fd`` only, and says otherwise
    what it waits for.
    """

    def __init__(self, stop_fd: int, *, stays: bool) -> None:
        self._stop_fd = stop_fd
        self._stays = stays
        self._error: FerryError | None = None
        self._thread = threading.Thread(target=self._watch, name="patience", daemon=True)

    def __enter__(self) -> Self:
        self._read_fd, self._write_fd = os.pipe2(os.O_CLOEXEC)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._write_fd)
        if self._thread.ident is not None:
            self._thread.join()
        os.close(self._read_fd)

    def begin(self) -> None:
        """Watch from now on, unless it does so already. What is better done before there are threads is done."""
        if self._thread.ident is None:
            try:
                self._thread.start()
            except RuntimeError:
                raise SetupError("No thread can be started: raise the limit of processes (ulimit -u).") from None

    def ending(self, error: FerryError | None = None) -> None:
        """The connection is about to be ended, because of ``error`` or as it should."""
        self._error = error
        os.write(self._write_fd, b"e")

    def ended(self) -> None:
        """It is, and nothing of it is left."""
        os.write(self._write_fd, b"o")

    def _watch(self) -> None:
        # They are the main thread's, whose waits they interrupt.
        signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
        poll = select.poll()
        poll.register(self._read_fd, select.POLLIN)
        poll.register(self._stop_fd, select.POLLIN)
        ending = stopped = False
        while True:
            ready = poll.poll(PATIENCE_SECONDS * 1000 if ending or stopped else None)
            if not ready:
                self._lose(stopped)
                ending = False
            for fd, _ in ready:
                if fd == self._stop_fd:
                    stopped = True
                    poll.unregister(fd)
                    continue
                said = os.read(fd, 1)
                if not said:
                    return
                ending = said == b"e"

    def _lose(self, stopped: bool) -> None:
        hangs = f"For {PATIENCE_SECONDS} s a request of the guest has been hanging in the host's file system"
        if self._error is not None:
            _LOG.error("%s", self._error)
        if self._stays and not stopped:
            _LOG.error("%s: the next front-end is served when it has ended.", hangs)
            return
        _LOG.error("%s: the daemon ends without it.", hangs)
        os._exit(0 if self._error is None else self._error.exit_code)
