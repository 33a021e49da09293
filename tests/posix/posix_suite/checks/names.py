"""File names: length, bytes, lookup."""

import errno
import os
from functools import partial
from pathlib import Path

from ..assertions import ensure, equal, fails
from ..files import make, opened
from ..registry import check, register

LONGEST = 255

ODD_NAMES: dict[str, bytes] = {
    "a_space": b"one two",
    "only_a_space": b" ",
    "a_leading_and_trailing_space": b" name ",
    "a_newline": b"first\nsecond",
    "a_tab_and_bell": b"tab\tbell\a",
    "a_backslash": b"back\\slash",
    "a_leading_dash": b"-rf",
    "quotes": b"'single' \"double\" `back`",
    "glob_characters": b"*?[a-z]{b,c}",
    "a_percent_sign": b"100%s%n",
    "a_colon": b"C:name",
    "a_trailing_dot": b"name.",
    "three_dots": b"...",
    "two_leading_dots": b"..name",
    "a_leading_dot": b".hidden",
    "the_text_deleted": b"a (deleted)",
    "bytes_that_are_not_utf8": b"\xff\xfe\x80name\xc3",
    "a_lone_surrogate": b"\xed\xa0\x80",
    "utf8": "Fähre 渡し船 ⛴".encode(),
    "a_bom": b"\xef\xbb\xbfname",
    "escape_sequences": b"\x1b[31mred\x1b[0m",
    "delete_and_c1_controls": b"\x7f\x80\x9f",
    "the_longest_name": b"n" * LONGEST,
    "the_longest_name_not_utf8": b"\xfe" * LONGEST,
    "the_longest_name_in_utf8": "é".encode() * 127 + b"x",
}


def _name_round_trip(name: bytes, directory: Path) -> None:
    """Create, list, stat, open, rename and remove, as a file, a directory and a symlink."""
    root = os.fsencode(directory)
    path = root + b"/" + name
    with opened(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY) as fd:
        os.write(fd, name)
    equal([name], os.listdir(root), "listing")
    with opened(path) as fd:
        equal(name, os.read(fd, 1024), "content")
        equal(path, os.readlink(b"/proc/self/fd/%d" % fd), "path of the fd")
    os.rename(path, root + b"/plain")
    os.rename(root + b"/plain", path)
    equal([name], os.listdir(root), "listing after renames")
    os.unlink(path)
    os.mkdir(path)
    os.mkdir(path + b"/" + name)
    equal([name], os.listdir(path), "listing of the directory of that name")
    os.rmdir(path + b"/" + name)
    os.rmdir(path)
    os.symlink(name, path)
    equal(name, os.readlink(path), "target")
    os.unlink(path)
    equal([], os.listdir(root), "listing at the end")


for label, odd_name in ODD_NAMES.items():
    register(f"names.{label}", partial(_name_round_trip, odd_name))


@check()
def every_byte_value(directory: Path) -> None:
    root = os.fsencode(directory)
    names = {b"x" + bytes([value]) for value in range(1, 256) if value != ord("/")}
    for name in names:
        os.close(os.open(root + b"/" + name, os.O_CREAT | os.O_EXCL))
    equal(names, set(os.listdir(root)), "listing")
    for name in names:
        os.unlink(root + b"/" + name)


@check()
def one_byte_too_long(directory: Path) -> None:
    long = directory / ("n" * (LONGEST + 1))
    file = make(directory / "file")
    with fails(errno.ENAMETOOLONG):
        os.open(long, os.O_CREAT)
    with fails(errno.ENAMETOOLONG):
        os.stat(long)
    with fails(errno.ENAMETOOLONG):
        os.mkdir(long)
    with fails(errno.ENAMETOOLONG):
        os.mkfifo(long)
    with fails(errno.ENAMETOOLONG):
        os.symlink("target", long)
    with fails(errno.ENAMETOOLONG):
        os.link(file, long)
    with fails(errno.ENAMETOOLONG):
        os.rename(file, long)
    with fails(errno.ENAMETOOLONG):
        os.rename(long, file)
    with fails(errno.ENAMETOOLONG):
        os.unlink(long)
    with fails(errno.ENAMETOOLONG):
        os.rmdir(long)
    with fails(errno.ENAMETOOLONG):
        os.stat(long / "below")
    equal(["file"], os.listdir(directory), "listing")


@check()
def path_of_4096_bytes_is_too_long(directory: Path) -> None:
    path = os.fsencode(directory) + b"/"
    path += b"./" * ((4096 - len(path)) // 2)
    path += b"x" * (4096 - len(path))
    with fails(errno.ENAMETOOLONG):
        os.stat(path)
    with fails(errno.ENAMETOOLONG):
        os.mkdir(path)


@check()
def path_of_4095_bytes_works(directory: Path) -> None:
    path = os.fsencode(directory) + b"/"
    path += b"./" * ((4093 - len(path)) // 2)
    path += b"x" * (4095 - len(path))
    os.mkdir(path)
    os.rmdir(path)


@check()
def empty_path_is_enoent(directory: Path) -> None:
    os.chdir(directory)
    for call in (os.stat, os.mkdir, os.unlink, os.rmdir):
        with fails(errno.ENOENT):
            call("")
    with fails(errno.ENOENT):
        os.open("", os.O_CREAT)


@check()
def case_is_kept_and_counts(directory: Path) -> None:
    make(directory / "Name", b"upper")
    make(directory / "name", b"lower")
    equal(b"upper", (directory / "Name").read_bytes(), "content")
    equal({"Name", "name"}, set(os.listdir(directory)), "listing")


@check()
def unicode_forms_are_different_names(directory: Path) -> None:
    composed, decomposed = b"\xc3\xa9", b"e\xcc\x81"
    root = os.fsencode(directory)
    os.mkdir(root + b"/" + composed)
    with fails(errno.ENOENT):
        os.stat(root + b"/" + decomposed)
    os.mkdir(root + b"/" + decomposed)
    equal({composed, decomposed}, set(os.listdir(root)), "listing")


@check()
def missing_name_appears_once_created(directory: Path) -> None:
    path = directory / "late"
    for _ in range(20):
        with fails(errno.ENOENT):
            path.stat()
        make(path)
        equal(7, path.stat().st_size, "size")
        path.unlink()
        with fails(errno.ENOENT):
            path.open("rb").close()


@check()
def name_changes_its_type(directory: Path) -> None:
    path = directory / "name"
    inodes = set()
    for _ in range(10):
        make(path)
        inodes.add(path.lstat().st_ino)
        ensure(path.is_file(), "the name is a file")
        path.unlink()
        path.mkdir()
        ensure(path.is_dir(), "the name is a directory")
        make(path / "inside")
        (path / "inside").unlink()
        path.rmdir()
        path.symlink_to("nowhere")
        ensure(path.is_symlink(), "the name is a symlink")
        with fails(errno.ENOENT):
            path.stat()
        path.unlink()
    with fails(errno.ENOENT):
        path.lstat()


@check()
def create_existing_name_is_eexist(directory: Path) -> None:
    make(directory / "file")
    (directory / "dir").mkdir()
    (directory / "dangling").symlink_to("nowhere")
    for name in ("file", "dir", "dangling"):
        path = directory / name
        with fails(errno.EEXIST):
            path.mkdir()
        with fails(errno.EEXIST):
            path.symlink_to("x")
        with fails(errno.EEXIST):
            os.mkfifo(path)
        with fails(errno.EEXIST):
            os.link(directory / "file", path)
        with fails(errno.EEXIST):
            os.open(path, os.O_CREAT | os.O_EXCL)
    equal(b"content", (directory / "file").read_bytes(), "content of the file that was there")
