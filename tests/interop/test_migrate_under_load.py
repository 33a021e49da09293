"""A mount that migrates again and again under programs that check all they see: nothing fails, no byte is wrong.

``FERRYFS_MIGRATIONS`` is how often each case migrates (a few by default: CI has little time; a release takes 100).
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from daemons import StartDaemon

from ferryfs.frontend.control import ask
from interop import workers
from interop.mounting import PATIENCE_SECONDS, daemon_command, daemon_line, mounted, needs_fuse

pytestmark = needs_fuse

MIGRATIONS = int(os.environ.get("FERRYFS_MIGRATIONS", "3"))
PROGRAMS = {"fsx": "fallocate", "git": "git", "tar": "tar", "fio": "fio"}
"""What a worker needs beside Python."""


class Worker:
    """One running program of workers.py."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        # Its own interpreter: one that waits for the file system in a page fault must not stop the others.
        self._process = subprocess.Popen(
            [sys.executable, workers.__file__, name, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begun(self) -> None:
        """Waits until it is at work."""
        assert self._process.stdout is not None
        assert select.select([self._process.stdout], [], [], PATIENCE_SECONDS)[0], f"{self._name} does not begin"
        said = self._process.stdout.readline()
        assert said == "at work\n", said

    def check(self) -> None:
        """Fails when it has ended, which it does by itself only when something was wrong."""
        if self._process.poll() is not None:
            pytest.fail(self._process.communicate()[0])

    def stop(self) -> None:
        """Lets it end its round, which needs an answer to every request; it must have done some."""
        try:
            said, _ = self._process.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self._name} waits for an answer that never comes")
        assert self._process.returncode == 0, said
        assert int(said) > 0, f"{self._name} did nothing"

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


@contextmanager
def at_work(folder: Path) -> Iterator[list[Worker]]:
    names = [name for name in workers.WORKERS if name not in PROGRAMS or shutil.which(PROGRAMS[name])]
    running: list[Worker] = []
    try:
        running.extend(Worker(name, folder) for name in names)
        for worker in running:
            worker.begun()
        yield running
    finally:
        for worker in running:
            worker.end()


def nothing_waits(mountpoint: str) -> bool:
    """Whether all requests got their answers in time: the kernel's own FORGETs and RELEASEs come when it likes."""
    return any(
        ask(mountpoint, "status")["in_flight"] == 0 or select.select([], [], [], 0.1)[0]
        for _ in range(int(PATIENCE_SECONDS * 10))
    )


@pytest.mark.parametrize("drain", [True, False], ids=["drain", "no-drain"])
@pytest.mark.parametrize("mode", ["find-paths", "file-handles"])
def test_nothing_fails_while_it_migrates(mode: str, drain: bool, tmp_path: Path, start_daemon: StartDaemon) -> None:
    shared = tmp_path / "shared"
    mountpoint = tmp_path / "mountpoint"
    shared.mkdir()
    mountpoint.mkdir()
    options = [f"--migration-mode={mode}", "--modcaps=+dac_read_search"]
    line = daemon_line("ferryfsd", shared, *options)
    with mounted(tmp_path / "socket", mountpoint, "--daemon", line):
        with at_work(mountpoint) as running:
            for number in range(MIGRATIONS):
                target = start_daemon(daemon_command("ferryfsd"), shared, ["--sandbox=none", *options])
                # Also migrations that stop the guest before anything is collected.
                collect = 0.01 if number % 3 == 2 else 0.3
                request = {"destination": str(target.socket), "drain": drain, "collect_s": collect}
                phases = [name for name, _ in ask(str(mountpoint), "migrate", request)["phases"]]
                assert phases[-1] == "first answer"
                for worker in running:
                    worker.check()
            for worker in running:
                worker.stop()
        assert nothing_waits(str(mountpoint))
        assert ask(str(mountpoint), "status")["bad_replies"] == 0
