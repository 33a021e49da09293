"""Programs that workloads run, as ``python programs.py NAME …`` with the share as working directory. Nothing of ferryfs
is imported: they stand for somebody's own programs.
"""

from __future__ import annotations

import os
import random
import sqlite3
import sys
from pathlib import Path

SUFFIXES = ("", ".js", ".json", ".node", "/package.json")


def inserts(count: int) -> None:
    """Rows into a data base, ten a transaction."""
    connection = sqlite3.connect("data.sqlite", isolation_level=None)
    connection.execute("create table entries (number integer primary key, words text)")
    for start in range(0, count, 10):
        connection.execute("begin")
        connection.executemany(
            "insert into entries values (?, ?)", [(k, f"entry {k} " * 8) for k in range(start, start + 10)]
        )
        connection.execute("commit")
    connection.close()


def resolve() -> None:
    """Loads every package as node does: candidates one after the other, then the file that is there."""
    root = Path("node_modules")
    for package in sorted(root.iterdir()):
        for user in (package, *sorted((package / "node_modules").glob("*"))):
            for k in range(3):
                _load(user / "lib", f"./module{k}")
            _load(user / "lib", f"package-{k + 3:04}")


def _load(folder: Path, name: str) -> None:
    if name.startswith("./"):
        places = [folder / name[2:]]
    else:
        places = [above / "node_modules" / name for above in (folder, *folder.parents)]
    for place in places:
        for suffix in SUFFIXES:
            try:
                os.stat(f"{place}{suffix}")
            except OSError:
                continue
            if os.path.isfile(f"{place}{suffix}"):
                with open(f"{place}{suffix}", "rb") as file:
                    file.read()
                return


def install(count: int) -> None:
    """Writes a tree of small files and removes it again."""
    folders = [f"tree/package-{i:04}/lib" for i in range(max(1, count // 10))]
    for folder in folders:
        os.makedirs(folder)
    for i in range(count):
        with open(f"{folders[i % len(folders)]}/file{i:05}.js", "wb") as file:
            file.write(b"exports.value = 1;\n" * 20)
    for i in range(count):
        os.unlink(f"{folders[i % len(folders)]}/file{i:05}.js")


def postmark(files: int, transactions: int) -> None:
    """A mail server: files of 0.5 to 10 KiB are read, appended to, made and removed."""
    numbers = random.Random(42)
    data = os.urandom(10240)
    names = [f"mail{i:06}" for i in range(files)]
    for name in names:
        _write(name, data[: numbers.randrange(512, 10240)], "wb")
    for k in range(transactions):
        at = numbers.randrange(len(names))
        if numbers.random() < 0.5:
            with open(names[at], "rb") as file:
                file.read()
        else:
            _write(names[at], data[: numbers.randrange(512, 4096)], "ab")
        at = numbers.randrange(len(names))
        if numbers.random() < 0.5:
            os.unlink(names[at])
            names[at] = f"more{k:06}"
        else:
            names.append(f"more{k:06}")
            at = -1
        _write(names[at], data[: numbers.randrange(512, 10240)], "wb")
    for name in names:
        os.unlink(name)


def _write(name: str, data: bytes, mode: str) -> None:
    with open(name, mode) as file:
        file.write(data)


def misses(count: int) -> None:
    """Asks for a file that is not there, again and again."""
    for _ in range(count):
        if os.path.exists("no-such-file"):
            raise SystemExit("no-such-file is there")


def closes(count: int) -> None:
    """Opens a file for reading, reads it, closes it."""
    for _ in range(count):
        with open("file", "rb") as file:
            file.read()


PROGRAMS = {program.__name__: program for program in (inserts, resolve, install, postmark, misses, closes)}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](*map(int, sys.argv[2:]))
