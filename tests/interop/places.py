"""What a destination may serve: the source's own directory, or what passes for it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

SAME = "the same directory"
BOUND = "a bind mount of it"
COPY = "a copy on the same file system"
FAR_COPY = "a copy on another file system"
FRESH = "a copy on another fresh ext4 image"
CLONE = "a block clone"
PLACES = (SAME, BOUND, COPY, FAR_COPY, FRESH, CLONE)


@contextmanager
def place(kind: str, folder: Path) -> Iterator[tuple[Path, Callable[[], Path]]]:
    """(what the source serves, what makes the destination's directory of that, as it is then). Needs root."""
    with ExitStack() as stack:
        images = kind in (FRESH, CLONE)
        share = _image(stack, folder / "one") if images else folder / "share"
        share.mkdir(exist_ok=True)

        def arrive() -> Path:
            if kind == SAME:
                return share
            other = folder / "other"
            if kind == BOUND:
                _mount(stack, other, "--bind", share)
                return other
            if kind == CLONE:
                # Twice: 1. sync(2) writes the share's file system, 2. it makes the guest write what it has mapped,
                # 3. it commits the journal. The clone would have the time of that write, and not what was written.
                os.sync()
                os.sync()
                shutil.copyfile(folder / "one.img", folder / "two.img")
                return _mount(stack, folder / "two", "-o", "loop", folder / "two.img")
            if kind == FAR_COPY:
                _mount(stack, other, "-t", "tmpfs", "none")
            elif kind == FRESH:
                other = _image(stack, other)
            # As an administrator does: with times and owners.
            subprocess.run(["cp", "-a", f"{share}/.", other], check=True)
            return other

        yield share, arrive


def _image(stack: ExitStack, path: Path) -> Path:
    """A new ext4, whose root has the file handle of every other one."""
    image = path.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-N", "16384", "-E", "root_owner=0:0", image], check=True)
    return _mount(stack, path, "-o", "loop", image)


def _mount(stack: ExitStack, onto: Path, *words: str | Path) -> Path:
    """Taken away with the stack, whoever has it open still."""
    onto.mkdir()
    subprocess.run(["mount", *words, onto], check=True)
    stack.callback(subprocess.run, ["umount", "--lazy", onto], check=True)
    return onto
