"""Files for the workloads: made the same each time, by a seed."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Final

SEED: Final = 20
LONG_AGO: Final = 1_600_000_000
HEADERS: Final = 24
INCLUDE_DIRS: Final = 6
GIT: Final = ("git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "safe.directory=*")
"""git, whoever owns the repository."""


def sources(folder: Path, files: int) -> None:
    """A tree of text files, a dozen a directory, as a program's sources are."""
    numbers = random.Random(SEED)
    for i in range(files):
        place = folder / f"part{i // 144:02}" / f"unit{i // 12 % 12:02}"
        if i % 12 == 0:
            place.mkdir(parents=True, exist_ok=True)
        lines = (f"line {k} of file {i}: {numbers.getrandbits(96):x}\n" for k in range(20 + i % 150))
        (place / f"source_file_{i % 12:02}.txt").write_text("".join(lines))


def repository(folder: Path, files: int) -> None:
    """The same under git, committed."""
    sources(folder, files)
    # Files as young as git's index are read again by every `git status`: another workload, now and then.
    for path in folder.rglob("*.txt"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"], ["gc", "-q"]):
        subprocess.run([*GIT, "-C", str(folder), *words], check=True, stdout=subprocess.DEVNULL)


def c_project(folder: Path, files: int) -> None:
    """A C program of many small files, that looks for its headers in several directories, and its Makefile."""
    for k in range(INCLUDE_DIRS):
        (folder / f"include{k}").mkdir(parents=True)
    for h in range(HEADERS):
        text = f"#ifndef H{h}\n#define H{h}\n" + "".join(f"int f{h}_{n}(int);\n" for n in range(40)) + "#endif\n"
        (folder / f"include{h % INCLUDE_DIRS}" / f"header{h:02}.h").write_text(text)
    includes = "".join(f'#include "header{h:02}.h"\n' for h in range(HEADERS))
    for i in range(files):
        place = folder / f"src{i // 20:02}"
        place.mkdir(exist_ok=True)
        functions = "".join(f"int u{i}_{n}(int a) {{ return a * {n} + f{n}_0(a); }}\n" for n in range(HEADERS))
        (place / f"unit{i:03}.c").write_text(includes + functions)
    (folder / "Makefile").write_text(
        "OBJECTS := $(patsubst %.c,%.o,$(wildcard src*/*.c))\n"
        f"CFLAGS := -O0 {' '.join(f'-Iinclude{k}' for k in range(INCLUDE_DIRS))}\n"
        "all: library.a\nlibrary.a: $(OBJECTS)\n\t$(AR) rcs $@ $^\n"
        "%.o: %.c\n\t$(CC) $(CFLAGS) -c -o $@ $<\n"
    )


def clean_project(folder: Path) -> None:
    """As it was before the build."""
    for name in (*folder.glob("src*/*.o"), *folder.glob("*.a")):
        name.unlink()


def packages(folder: Path, files: int) -> None:
    """What a package manager of JavaScript leaves: packages with a few small files each, some nested."""
    made = package = 0
    while made < files:
        home = folder / "node_modules" / f"package-{package:04}"
        if package % 5 == 4:
            home = folder / "node_modules" / f"package-{package - 1:04}" / "node_modules" / f"package-{package:04}"
        (home / "lib").mkdir(parents=True)
        (home / "package.json").write_text(f'{{"name": "package-{package:04}", "main": "lib/index.js"}}\n')
        for k in range(min(9, files - made)):
            name = "index" if k == 0 else f"module{k}"
            (home / "lib" / f"{name}.js").write_text(f"exports.value = {package * k};\n" * (5 + k * 7))
        made += 10
        package += 1


def empty(folder: Path) -> None:
    """A directory with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
