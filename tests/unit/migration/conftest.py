"""What several tests of migration need."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """mount(8) with these words, onto a new folder; the suite has a mount namespace of its own."""
    with ExitStack() as stack:

        def one(name: str, *words: str | Path) -> Path:
            folder = tmp_path / name
            folder.mkdir(exist_ok=True)
            subprocess.run(["mount", *words, folder], check=True)
            stack.callback(subprocess.run, ["umount", folder], check=True)
            return folder

        yield one
