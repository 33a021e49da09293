"""Daemons for tests: which there are, and that each ends cleanly and without a complaint, whatever happens to it."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from ferryfs.guest.backend import Backend, own_daemon, reference_daemon

# Python's, the C library's, the sanitizers' and Rust's ways to say that a program has a fault of its own.
SUSPICIOUS = re.compile(
    r"Traceback \(most recent call last\)|Exception ignored|Fatal Python error|\w+Warning: |panicked at"
    r"|AddressSanitizer|LeakSanitizer|UndefinedBehaviorSanitizer|runtime error: "
    r"|Assertion .* failed|malloc\(\): |free\(\): |a bug in ferryfsd"
)


def complaints(text: str, allowed: Iterable[str] = ()) -> list[str]:
    """The lines of a daemon's output that only a fault of its own explains; ``allowed`` are regular expressions."""
    patterns = [re.compile(one) for one in allowed]
    return [
        line
        for line in text.splitlines()
        if SUSPICIOUS.search(line) and not any(pattern.search(line) for pattern in patterns)
    ]


# What ours says when it is about to end by itself.
GONE = "The front-end is gone."


class StartDaemon(Protocol):
    """Starts a daemon that serves a directory, and ends it when the scope ends."""

    def __call__(
        self,
        command: Sequence[str],
        shared: Path,
        options: Sequence[str] = (),
        *,
        socket: Path | None = None,
        allowed: Sequence[str] = (),
    ) -> Backend:
        """``allowed`` are regular expressions of log lines that the test provokes."""


@contextmanager
def daemons(folder: Path) -> Iterator[StartDaemon]:
    """A scope that daemons live in; it fails the test when one complained or did not end cleanly."""
    started: list[tuple[Backend, Sequence[str]]] = []
    with ExitStack() as running:

        def start(
            command: Sequence[str],
            shared: Path,
            options: Sequence[str] = (),
            *,
            socket: Path | None = None,
            allowed: Sequence[str] = (),
        ) -> Backend:
            number = len(started)
            backend = Backend(
                command,
                shared,
                socket or folder / f"socket{number}",
                folder / f"daemon{number}.log",
                options,
                {"PYTHONDEVMODE": "1", "PYTHONUNBUFFERED": "1"},
            )
            running.enter_context(backend)
            started.append((backend, allowed))
            return backend

        yield start
        for backend, _ in started:
            # The race: 1. the front-end goes, the daemon begins to end with status 0; 2. we send SIGTERM; 3. it comes
            # when the daemon's handlers are gone already. So one that is about to end is waited for.
            if GONE in backend.log_text() and "--keep-listening" not in backend.command:
                backend.wait()
    for backend, allowed in started:
        found = complaints(backend.log_text(), allowed)
        # Ours ends by SIGTERM with status 0; the reference with 1, or by the signal itself where it is just starting.
        told = backend.terminated and is_reference(backend.command)
        clean = {0, 1, -signal.SIGTERM} if told else {0}
        if found or backend.status not in clean:
            pytest.fail(f"{backend.command[0]} ended with status {backend.status} and wrote:\n{backend.log_text()}")


def is_reference(command: Sequence[str]) -> bool:
    """Whether a command is the reference daemon's."""
    return Path(command[0]).name == "virtiofsd"


OWN = "ferryfsd"
REFERENCES = ("virtiofsd-1.13.2", "virtiofsd-1.14.0")
EVERY_DAEMON = (OWN, *REFERENCES)


def daemon_command(name: str) -> tuple[str, ...]:
    """The command of a daemon by its name in ``EVERY_DAEMON``; skips the test where the reference can't be had."""
    if name == OWN:
        return own_daemon()
    command = reference_daemon(name.removeprefix("virtiofsd-"))
    if command is None:
        pytest.skip(f"{name} is not in the cache folder: run scripts/peers")
    return command
