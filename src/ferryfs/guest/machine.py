"""A running guest: QEMU as a child process, its monitor, and the agent inside."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from ferryfs.errors import SetupError
from ferryfs.guest.agent import Agent, AgentError, Result
from ferryfs.guest.command_line import PROGRAM, Machine, command_line
from ferryfs.guest.qmp import Monitor, QmpError

# TCG on a very busy machine of two cores: thirty times what an idle one needs.
BOOT_TIMEOUT = 180.0
QUIT_TIMEOUT = 20.0
# A boot may stand still: one processor of the guest gets no timer interrupt any more, and its kernel says so after
# 21 s. Seen with QEMU that emulates each processor in a thread of its own. The reset button helps.
STALL_SECONDS = 30.0
STALLED = "detected stalls on CPUs/tasks"
POLL_SECONDS = 0.01


class Guest:
    """A guest from its start to its end; use it as a context manager.

    ``folder`` takes its sockets and logs and is removed at the end when it was made here.

    :raises SetupError: there is no QEMU, it refuses its command line, or the guest does not boot.
    """

    def __init__(self, machine: Machine, folder: Path | None = None) -> None:
        self.machine = machine
        self._own_folder = folder is None
        # Short: the path of a socket has 107 bytes at most.
        self.folder = Path(tempfile.mkdtemp(prefix="ferryfs-guest-")) if folder is None else folder
        self.console = self.folder / "console.log"
        self.errors = self.folder / "qemu.log"
        self.command = command_line(
            machine, monitor=self.folder / "monitor", agent=self.folder / "agent", console=self.console
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._resources = contextlib.ExitStack()

    def __enter__(self) -> Self:
        try:
            self.start()
            if not self.machine.incoming:
                self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *unused: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start QEMU and connect to its monitor and to the agent's port; does not wait for the guest."""
        program = shutil.which(PROGRAM)
        if program is None:
            raise SetupError(f"there is no {PROGRAM}: run `scripts/setup`, or install QEMU 8.2 or newer.")
        with self.errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [program, *self.command[1:]], stdin=subprocess.DEVNULL, stdout=errors, stderr=errors
            )
        deadline = time.monotonic() + BOOT_TIMEOUT
        self._await_socket(self.folder / "agent", deadline)
        try:
            self.monitor = self._resources.enter_context(Monitor(self.folder / "monitor", BOOT_TIMEOUT))
            self.agent = self._resources.enter_context(Agent(self.folder / "agent"))
        except (QmpError, OSError) as error:
            raise SetupError(f"QEMU did not start: {self.error_text() or error}") from error

    def _await_socket(self, path: Path, deadline: float) -> None:
        assert self._process is not None
        ended = os.pidfd_open(self._process.pid)
        try:
            while not path.exists():
                readable, _, _ = select.select([ended], [], [], POLL_SECONDS)
                if readable or time.monotonic() > deadline:
                    raise SetupError(f"QEMU did not start: {self.error_text() or 'it says nothing'}")
        finally:
            os.close(ended)

    def wait_ready(self, timeout: float = BOOT_TIMEOUT) -> str:
        """Wait for the guest's agent after a start or a reset; returns the guest kernel's version."""
        try:
            if timeout > STALL_SECONDS:
                with contextlib.suppress(AgentError):
                    return self.agent.wait_ready(STALL_SECONDS)
                if STALLED in self.console_text():
                    self.monitor.execute("system_reset")
                timeout -= STALL_SECONDS
            return self.agent.wait_ready(timeout)
        except (SetupError, OSError) as error:
            said = self.error_text() or self.console_text()[-2000:].strip()
            raise SetupError(f"the guest did not boot: {said or error}") from error

    def run(self, command: str, timeout: float = 60.0) -> Result:
        """Run a shell command in the guest."""
        return self.agent.run(command, timeout)

    def check(self, command: str, timeout: float = 60.0) -> str:
        """Run a shell command in the guest that has to succeed, and return its output."""
        return self.agent.check(command, timeout)

    def reset(self) -> str:
        """Press the reset button and wait until the guest is up again."""
        self.monitor.execute("system_reset")
        return self.wait_ready()

    def console_text(self) -> str:
        """What the guest's kernel wrote to its console so far."""
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def error_text(self) -> str:
        """What QEMU itself wrote."""
        return self.errors.read_text(errors="replace").strip() if self.errors.exists() else ""

    def wait(self, timeout: float = QUIT_TIMEOUT) -> int:
        """Wait for QEMU to end by itself; its exit status, or the negative number of the signal that ended it.

        :raises SetupError: it is still running after ``timeout`` seconds.
        """
        assert self._process is not None
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise SetupError(f"QEMU is still running {timeout:g} s after it had to end.") from error

    def kill(self) -> None:
        """Let QEMU die on the spot, as it does when the host runs out of memory."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End QEMU and remove what it left; does nothing the second time."""
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None:
                with contextlib.suppress(QmpError, OSError, AttributeError):
                    self.monitor.execute("quit")
                try:
                    process.wait(QUIT_TIMEOUT)
                except subprocess.TimeoutExpired:
                    process.kill()
            process.wait()
        self._resources.close()
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)
