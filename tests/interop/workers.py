"""Programs that use a directory hard and check all that they see: ``workers.py NAME FOLDER``, a process each.

They go on until their standard input ends, then print how many rounds they did. Whatever is wrong ends them at once
with status 1 and a sentence.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import random
import select
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

FSX_MAX = 256 * 1024


class Wrong(Exception):
    """What a worker saw is not what it had written."""


def told_to_stop() -> bool:
    return bool(select.select([sys.stdin], [], [], 0)[0])


def run(*words: str | Path, cwd: Path) -> str:
    """Runs a program that must succeed."""
    done = subprocess.run(words, cwd=cwd, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise Wrong(f"{' '.join(map(str, words))} ended with status {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


class Exerciser:
    """One file and what it must contain; random operations on both, as fsx does it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = folder / "fsx-0"
        self._fd = os.open(self._name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self._expected = bytearray()
        self._random = random.Random(folder.name)
        self._history: list[str] = []
        self._operations: list[Callable[[], str]] = [
            self._write,
            self._write,
            self._read,
            self._read,
            self._truncate,
            self._map,
            self._punch,
            self._reopen,
            self._rename,
            self._replace_by_copy,
            self._uncached,
        ]

    def round(self) -> None:
        for _ in range(20):
            operation = self._random.choice(self._operations)
            try:
                done = operation()
            except OSError as error:
                raise Wrong(f"{operation.__name__} of {self._name} failed: {error}; before: {self._history}") from error
            self._history = [*self._history[-15:], done]

    def _range(self) -> tuple[int, int]:
        start = self._random.randrange(FSX_MAX)
        return start, min(FSX_MAX, start + self._random.randrange(1, 70_000))

    def _grow(self, size: int) -> None:
        self._expected.extend(bytes(max(0, size - len(self._expected))))

    def _compare(self, start: int, found: bytes, what: str) -> None:
        expected = self._expected[start : start + len(found)]
        if found != expected:
            at = next((n for n, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), len(expected))
            raise Wrong(f"{what}: wrong from byte {start + at} of {self._name} on; before: {self._history}")

    def _write(self) -> str:
        start, end = self._range()
        data = self._random.randbytes(end - start)
        view = memoryview(data)
        while view:
            view = view[os.pwrite(self._fd, view, end - len(view)) :]
        self._grow(end)
        self._expected[start:end] = data
        return f"write {start}-{end}"

    def _read(self) -> str:
        start, end = self._range()
        found = os.pread(self._fd, end - start, start)
        if len(found) != len(self._expected[start:end]):
            raise Wrong(f"read of {start}-{end} in {len(self._expected)}: {len(found)} bytes; before: {self._history}")
        self._compare(start, found, "read")
        return f"read {start}-{end}"

    def _uncached(self) -> str:
        os.fsync(self._fd)
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        self._compare(0, os.pread(self._fd, FSX_MAX, 0), "uncached read")
        return "uncached read"

    def _truncate(self) -> str:
        size = self._range()[0]
        os.ftruncate(self._fd, size)
        del self._expected[size:]
        self._grow(size)
        if os.fstat(self._fd).st_size != size:
            raise Wrong(f"size after truncation to {size}: {os.fstat(self._fd).st_size}")
        return f"truncate {size}"

    def _map(self) -> str:
        if not self._expected:
            return "no map"
        with mmap.mmap(self._fd, len(self._expected)) as area:
            self._compare(0, area[:], "mapped read")
            start, end = self._range()
            end = min(end, len(area))
            if start < end:
                data = self._random.randbytes(end - start)
                area[start:end] = data
                self._expected[start:end] = data
                area.flush()
        return f"map {start}-{end}"

    def _punch(self) -> str:
        start, end = self._range()
        run("fallocate", "--punch-hole", f"--offset={start}", f"--length={end - start}", self._name, cwd=self._folder)
        end = min(end, len(self._expected))
        if start < end:
            self._expected[start:end] = bytes(end - start)
        return f"punch {start}-{end}"

    def _reopen(self) -> str:
        os.close(self._fd)
        self._fd = os.open(self._name, os.O_RDWR)
        return "reopen"

    def _rename(self) -> str:
        below = self._folder / f"below{self._random.randrange(3)}"
        below.mkdir(exist_ok=True)
        name = below / f"fsx-{self._random.randrange(1000)}"
        self._name.rename(name)
        self._name = name
        return f"rename to {name.name}"

    def _replace_by_copy(self) -> str:
        """The file that was open loses its last name; it must still be what it was."""
        copy = self._name.with_name("copy")
        shutil.copyfile(self._name, copy)
        copy.rename(self._name)
        self._compare(0, os.pread(self._fd, FSX_MAX, 0), "read of the nameless")
        os.close(self._fd)
        self._fd = os.open(self._name, os.O_RDWR)
        return "replace by a copy"


def fsx(folder: Path) -> Callable[[], None]:
    return Exerciser(folder).round


def sqlite(folder: Path) -> Callable[[], None]:
    """Transactions that keep a sum, by a journal that comes and goes; integrity checked each round."""
    path = folder / "db"
    with sqlite3.connect(path) as base:
        base.execute("create table account (name integer primary key, amount integer)")
        base.executemany("insert into account values (?, 100)", ((n,) for n in range(200)))
    base.close()
    chance = random.Random(1)

    def step() -> None:
        base = sqlite3.connect(path, timeout=60)
        try:
            for _ in range(5):
                with base:
                    one, two = chance.sample(range(200), 2)
                    base.execute("update account set amount = amount - 7 where name = ?", (one,))
                    base.execute("update account set amount = amount + 7 where name = ?", (two,))
            total = base.execute("select sum(amount), count(*) from account").fetchone()
            check = base.execute("pragma integrity_check").fetchone()
        finally:
            base.close()
        if total != (20_000, 200) or check != ("ok",):
            raise Wrong(f"the data base has {total}, and its check says {check}")

    return step


def git(folder: Path) -> Callable[[], None]:
    """Commits, a clone and fsck, thrown away now and then."""
    tree = folder / "tree"
    tree.mkdir()
    run("git", "init", "-q", ".", cwd=tree)
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "gc.auto=0")
    rounds = 0

    def step() -> None:
        nonlocal rounds
        rounds += 1
        for number in range(8):
            place = tree / f"d{number % 3}"
            place.mkdir(exist_ok=True)
            (place / f"f{number}").write_text(f"round {rounds}\n" * number * 100)
        run("git", "add", "-A", cwd=tree)
        run("git", *identity, "commit", "-q", "-m", f"round {rounds}", cwd=tree)
        if rounds % 4 == 0:
            run("git", "fsck", "--strict", cwd=tree)
            if run("git", "status", "--porcelain", cwd=tree):
                raise Wrong("git status shows changes after a commit")
            clone = folder / "clone"
            run("git", "clone", "-q", "--no-hardlinks", tree, clone, cwd=folder)
            run("diff", "-r", "--exclude=.git", tree, clone, cwd=folder)
            shutil.rmtree(clone)

    return step


def tar(folder: Path) -> Callable[[], None]:
    """Packs a tree, unpacks it, compares sums, removes it."""
    source = folder / "source"
    source.mkdir()
    chance = random.Random(2)
    sums = {}
    for number in range(60):
        place = source / f"sub{number % 7}"
        place.mkdir(exist_ok=True)
        data = chance.randbytes(chance.randrange(1, 40_000))
        (place / f"file{number}").write_bytes(data)
        sums[f"sub{number % 7}/file{number}"] = hashlib.sha256(data).digest()
    os.link(source / "sub0" / "file0", source / "hard")
    (source / "soft").symlink_to("sub1/file1")
    run("tar", "-cf", folder / "archive.tar", "-C", source, ".", cwd=folder)

    def step() -> None:
        target = folder / "target"
        target.mkdir()
        run("tar", "-xf", folder / "archive.tar", "-C", target, cwd=folder)
        for name, digest in sums.items():
            if hashlib.sha256((target / name).read_bytes()).digest() != digest:
                raise Wrong(f"{name} is not what was packed")
        if (target / "hard").stat().st_ino != (target / "sub0" / "file0").stat().st_ino:
            raise Wrong("the hard link became a file of its own")
        if (target / "soft").readlink() != Path("sub1/file1"):
            raise Wrong("the symlink points elsewhere")
        shutil.rmtree(target)
        if target.exists():
            raise Wrong("the removed tree is still there")

    return step


def fio(folder: Path) -> Callable[[], None]:
    """Random reads and writes with a checksum in each block."""
    words = ["fio", "--name=verify", f"--directory={folder}", "--rw=randrw", "--size=2M", "--bs=4k-32k", "--thread"]
    words += ["--verify=crc32c", "--verify_fatal=1", "--ioengine=psync", "--bsrange=4k-32k", "--unlink=1"]

    def step() -> None:
        run(*words, cwd=folder)

    return step


def churn(folder: Path) -> Callable[[], None]:
    """Names that come, go and move all the time, with files held open meanwhile."""
    chance = random.Random(3)
    held: list[tuple[int, bytes]] = []
    rounds = 0

    def step() -> None:
        nonlocal rounds
        rounds += 1
        place = folder / f"place{rounds % 5}"
        place.mkdir(exist_ok=True)
        for number in range(20):
            path = place / f"{rounds}-{number}"
            content = str(path).encode()
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            os.write(fd, content)
            match number % 4:
                case 0:
                    path.unlink()
                case 1:
                    path.rename(folder / f"moved{number}")
                case 2:
                    path.rename(place / "same")
                case _:
                    os.link(path, folder / f"{rounds}-link")
                    path.unlink()
                    (folder / f"{rounds}-link").unlink()
            held.append((fd, content))
        if rounds % 5 == 0:
            place.rename(folder / "away")
            shutil.rmtree(folder / "away")
        while len(held) > 100:
            fd, content = held.pop(chance.randrange(len(held)))
            found = os.pread(fd, 4096, 0)
            os.close(fd)
            if found != content:
                raise Wrong(f"an open file has {found!r} instead of {content!r}")

    return step


WORKERS: dict[str, Callable[[Path], Callable[[], None]]] = {
    worker.__name__: worker for worker in (fsx, sqlite, git, tar, fio, churn)
}


def main(name: str, folder: str) -> int:
    rounds = 0
    try:
        place = Path(folder) / name
        place.mkdir()
        step = WORKERS[name](place)
        print("at work", flush=True)
        while not told_to_stop():
            step()
            rounds += 1
    except (Wrong, OSError, sqlite3.Error) as error:
        print(f"{name}, round {rounds}: {error}")
        return 1
    print(rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
