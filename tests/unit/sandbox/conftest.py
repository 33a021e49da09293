"""A confined process that runs a piece of code, and what became of it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

PROGRAM = """
import os, sys
from ferryfs.passthrough.config import HandleMode
from ferryfs.sandbox import _linux, confine, seccomp
mode, share, action, code, *before = sys.argv[1:]
import socket, threading
exec("".join(before))
rules = None if action == "none" else seccomp.Rules(action)
confined = confine.enter(mode, share)
confine.give_up_rights(HandleMode.PREFER, (), rules)
def at(path, flags=os.O_RDONLY):
    return os.open(path, flags, dir_fd=confined.root_fd)
exec(code)
sys.stdout.flush()
os._exit(0)
"""


class Outcome(NamedTuple):
    """How the process ended and what it said."""

    status: int
    said: str
    complained: str


Inside = Callable[..., Outcome]


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """A directory with something in it."""
    folder = tmp_path / "share"
    folder.mkdir()
    (folder / "hello").write_text("hello\n")
    return folder


@pytest.fixture
def inside(share: Path) -> Inside:
    """Run code in a confined process: ``before`` runs while it is still free."""
    if os.geteuid() != 0:
        pytest.skip("confinement of root's daemon is tried as root: run the tests as root")

    def run(
        code: str, mode: str = "namespace", seccomp: str = "kill", share: Path = share, before: str = ""
    ) -> Outcome:
        done = subprocess.run(
            [sys.executable, "-I", "-c", PROGRAM, mode, str(share), seccomp, code, before],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return Outcome(done.returncode, done.stdout.strip(), done.stderr.strip())

    return run
