"""Several processes and threads at once. Each states what must hold in any order of events."""

import errno
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..assertions import ensure, equal, fails
from ..files import make, opened, pattern, read_at
from ..processes import Child, Signpost, all_of
from ..registry import check
from ..syscalls import RENAME_EXCHANGE, renameat2

PROCESSES = 4


def _in_threads(functions: list[Callable[[], None]]) -> None:
    failures: list[BaseException] = []

    def run(function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@check()
def only_one_wins_an_exclusive_create(directory: Path) -> None:
    wins = make(directory / "wins", b"")

    def race() -> None:
        with opened(wins, os.O_WRONLY | os.O_APPEND) as tally:
            for turn in range(50):
                try:
                    os.close(os.open(directory / f"prize{turn}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                except FileExistsError:
                    continue
                os.write(tally, b"%d\n" % turn)

    all_of([race] * PROCESSES)
    won = wins.read_bytes().split()
    equal(50, len(won), "wins")
    equal(50, len(set(won)), "different prizes won")


@check()
def only_one_wins_a_mkdir(directory: Path) -> None:
    wins = make(directory / "wins", b"")

    def race() -> None:
        with opened(wins, os.O_WRONLY | os.O_APPEND) as tally:
            for turn in range(50):
                try:
                    (directory / f"prize{turn}").mkdir()
                except FileExistsError:
                    continue
                os.write(tally, b"%d\n" % turn)

    all_of([race] * PROCESSES)
    equal(50, len(wins.read_bytes().split()), "wins")


@check()
def processes_create_in_one_directory(directory: Path) -> None:
    def create(name: int) -> None:
        for index in range(100):
            make(directory / f"{name}.{index}", b"%d" % index)

    all_of([partial(create, name) for name in range(PROCESSES)])
    equal(
        {f"{name}.{index}" for name in range(PROCESSES) for index in range(100)}, set(os.listdir(directory)), "listing"
    )
    equal(b"77", (directory / "2.77").read_bytes(), "content")


@check()
def threads_create_and_unlink_the_same_names(directory: Path) -> None:
    def churn(seed: int) -> None:
        for turn in range(150):
            path = directory / f"name{(turn * seed) % 7}"
            try:
                if turn % 2:
                    path.unlink()
                else:
                    make(path, b"x")
            except FileNotFoundError:
                continue

    _in_threads([partial(churn, seed) for seed in (1, 2, 3, 5)])
    for name in os.listdir(directory):
        equal(1, (directory / name).stat().st_nlink, "links of what is left")
        (directory / name).unlink()
    equal([], os.listdir(directory), "listing")


@check()
def reader_sees_the_old_or_the_new_file(directory: Path) -> None:
    """Write aside and rename: nobody ever sees half a file, or none."""
    make(directory / "file", b"0" * 5000)

    def replace() -> None:
        for turn in range(1, 150):
            make(directory / "aside", b"%d" % (turn % 10) * 5000).rename(directory / "file")

    def look() -> None:
        for _ in range(300):
            content = (directory / "file").read_bytes()
            equal((5000, 1), (len(content), len(set(content))), "length and different bytes")

    all_of([replace, look])


@check("rename_flags")
def exchange_never_shows_a_gap(directory: Path) -> None:
    make(directory / "a", b"A")
    make(directory / "b", b"B")

    def swap() -> None:
        for _ in range(100):
            renameat2(directory / "a", directory / "b", RENAME_EXCHANGE)

    def look() -> None:
        for _ in range(200):
            ensure((directory / "a").read_bytes() in (b"A", b"B"), "one of the two is there")

    all_of([swap, look, look])
    equal({b"A", b"B"}, {(directory / name).read_bytes() for name in "ab"}, "contents")


@check()
def writers_of_different_ranges(directory: Path) -> None:
    file = make(directory / "file", bytes(PROCESSES * 100_000))

    def write(part: int) -> None:
        with opened(file, os.O_WRONLY) as fd:
            for offset in range(0, 100_000, 2500):
                os.pwrite(fd, pattern(100_000, part)[offset : offset + 2500], part * 100_000 + offset)

    all_of([partial(write, part) for part in range(PROCESSES)])
    equal(b"".join(pattern(100_000, part) for part in range(PROCESSES)), file.read_bytes(), "content")


@check()
def threads_read_through_one_fd(directory: Path) -> None:
    content = pattern(400_000)
    with opened(make(directory / "file", content)) as fd:

        def read(seed: int) -> None:
            for turn in range(60):
                offset = (turn * seed * 7919) % 390_000
                equal(content[offset : offset + 10_000], read_at(fd, 10_000, offset), "content")

        _in_threads([partial(read, seed) for seed in (1, 2, 3, 5)])


@check()
def reader_of_a_growing_file_sees_whole_writes(directory: Path) -> None:
    file = make(directory / "file", b"")
    done = Signpost()

    def grow() -> None:
        with opened(file, os.O_WRONLY | os.O_APPEND) as fd:
            for turn in range(200):
                os.write(fd, b"%099d\n" % turn)
        done.reached()

    child = Child(grow)
    seen = 0
    with opened(file) as fd:
        while seen < 200:
            for line in os.pread(fd, 10_000, seen * 100).decode().splitlines(keepends=True):
                if len(line) == 100:
                    equal(seen, int(line), "line")
                    seen += 1
    done.wait()
    child.wait()


@check()
def links_and_unlinks_at_once(directory: Path) -> None:
    file = make(directory / "file")

    def churn(name: int) -> None:
        for turn in range(60):
            os.link(file, directory / f"{name}.{turn}")
            if turn % 2:
                os.unlink(directory / f"{name}.{turn}")

    all_of([partial(churn, name) for name in range(PROCESSES)])
    equal(1 + PROCESSES * 30, file.stat().st_nlink, "links")
    equal(file.stat().st_nlink, len(os.listdir(directory)), "names")


@check()
def stat_while_others_remove(directory: Path) -> None:
    def churn() -> None:
        for _ in range(150):
            make(directory / "file", b"1234567")
            (directory / "file").unlink()

    def look() -> None:
        for _ in range(300):
            try:
                status = (directory / "file").stat()
            except FileNotFoundError:
                continue
            ensure(status.st_size in (0, 7), "the size is one that the file had")

    all_of([churn, look, look])


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError as error:
        equal(errno.ENOTEMPTY, error.errno, "errno")
        return False
    return True


@check()
def renames_into_a_directory_that_comes_and_goes(directory: Path) -> None:
    def churn() -> None:
        for _ in range(100):
            (directory / "dir").mkdir()
            while not _removed(directory / "dir"):
                (directory / "dir" / "file").rename(directory / "file")

    def push() -> None:
        for _ in range(200):
            try:
                (directory / "file").rename(directory / "dir" / "file")
            except FileNotFoundError:
                continue

    make(directory / "file")
    all_of([churn, push])
    equal(["file"], os.listdir(directory), "listing")
    equal(b"content", (directory / "file").read_bytes(), "content")


@check()
def opposite_directory_renames(directory: Path) -> None:
    """a/x to b/x and back in one process, b/y to a/y and back in the other: locks must not cross."""
    for name in ("a/x", "b/y"):
        (directory / name).mkdir(parents=True)

    def toss(first: str, second: str, name: str) -> None:
        for _ in range(100):
            (directory / first / name).rename(directory / second / name)
            (directory / second / name).rename(directory / first / name)

    all_of([partial(toss, "a", "b", "x"), partial(toss, "b", "a", "y")])
    equal((["x"], ["y"]), (os.listdir(directory / "a"), os.listdir(directory / "b")), "listings")


@check()
def listing_while_others_create(directory: Path) -> None:
    for index in range(100):
        make(directory / f"old{index}")
    old = {f"old{index}" for index in range(100)}

    def churn() -> None:
        for turn in range(200):
            make(directory / f"new{turn % 10}")
            (directory / f"new{turn % 10}").unlink()

    def look() -> None:
        for _ in range(50):
            names = os.listdir(directory)
            ensure(old <= set(names), "what stays is always listed")
            equal(len(names), len(set(names)), "different names")

    all_of([churn, look])


@check()
def truncate_and_append_at_once(directory: Path) -> None:
    file = make(directory / "file", b"")

    def append() -> None:
        with opened(file, os.O_WRONLY | os.O_APPEND) as fd:
            for _ in range(200):
                os.write(fd, b"12345678")

    def cut() -> None:
        for _ in range(100):
            os.truncate(file, 0)

    all_of([append, cut])
    content = file.read_bytes()
    equal(b"12345678" * (len(content) // 8), content, "content: whole records, no gap")


@check()
def deep_trees_made_and_removed_in_parallel(directory: Path) -> None:
    def tree(name: int) -> None:
        for _ in range(5):
            path = directory / f"top{name}" / "/".join(map(str, range(8)))
            path.mkdir(parents=True)
            make(path / "leaf")
            (path / "leaf").unlink()
            while path != directory:
                path.rmdir()
                path = path.parent

    all_of([partial(tree, name) for name in range(PROCESSES)])
    equal([], os.listdir(directory), "listing")


@check()
def removed_in_one_process_is_gone_in_the_other(directory: Path) -> None:
    removed, seen = Signpost(), Signpost()

    def look() -> None:
        for turn in range(20):
            removed.wait()
            with fails(errno.ENOENT):
                os.stat(directory / f"file{turn}")
            with fails(errno.ENOENT):
                os.open(directory / f"file{turn}", os.O_RDONLY)
            seen.reached()

    child = Child(look)
    for turn in range(20):
        make(directory / f"file{turn}")
        os.unlink(directory / f"file{turn}")
        removed.reached()
        seen.wait()
    child.wait()
