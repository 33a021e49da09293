"""Symbolic links."""

import errno
import os
import stat
from pathlib import Path

from ..assertions import ensure, equal, fails
from ..files import kind_of, make, opened
from ..registry import check
from ..syscalls import readlink_into


@check()
def target_and_size(directory: Path) -> None:
    link = directory / "link"
    for target in (b"x", b"some/where", b"/absolute", b"../..", b"\xff\xfe not utf-8", b" ", b"a\nb", b"t" * 300):
        os.symlink(target, os.fsencode(link))
        equal(target, os.readlink(os.fsencode(link)), "target")
        equal(len(target), link.lstat().st_size, "size")
        link.unlink()


@check()
def target_of_every_length_around_inline_limits(directory: Path) -> None:
    link = directory / "link"
    for length in (1, 58, 59, 60, 61, 255, 256, 1023, 1024, 2048):
        os.symlink("t" * length, link)
        equal("t" * length, os.readlink(link), "target")
        link.unlink()


@check("symlink_4095")
def target_of_4095_bytes(directory: Path) -> None:
    target = "/".join(["t" * 250] * 20)[:4095]
    os.symlink(target, directory / "link")
    equal(target, os.readlink(directory / "link"), "target")
    equal(4095, (directory / "link").lstat().st_size, "size")


@check()
def target_of_4096_bytes_is_too_long(directory: Path) -> None:
    with fails(errno.ENAMETOOLONG):
        os.symlink("t" * 4096, directory / "link")


@check()
def empty_target_is_enoent(directory: Path) -> None:
    with fails(errno.ENOENT):
        os.symlink("", directory / "link")


@check()
def readlink_cuts_at_the_buffer(directory: Path) -> None:
    os.symlink("0123456789", directory / "link")
    equal(b"012", readlink_into(directory / "link", 3), "first three bytes")
    equal(b"0123456789", readlink_into(directory / "link", 10), "just fitting")


@check()
def readlink_of_something_else_is_einval(directory: Path) -> None:
    make(directory / "file")
    for path in (directory, directory / "file"):
        with fails(errno.EINVAL):
            os.readlink(path)


@check()
def dangling(directory: Path) -> None:
    link = directory / "link"
    link.symlink_to("nowhere")
    with fails(errno.ENOENT):
        link.stat()
    with fails(errno.ENOENT):
        os.open(link, os.O_RDONLY)
    equal(stat.S_IFLNK, kind_of(link), "type")


@check()
def create_through_a_dangling_link_makes_the_target(directory: Path) -> None:
    link = directory / "link"
    link.symlink_to("target")
    make(link, b"through")
    equal(b"through", (directory / "target").read_bytes(), "content of the target")
    ensure(link.is_symlink(), "the link is still one")


@check()
def o_excl_does_not_follow(directory: Path) -> None:
    link = directory / "link"
    link.symlink_to("target")
    with fails(errno.EEXIST):
        os.open(link, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    ensure(not (directory / "target").exists(), "the target was not made")


@check()
def loop_is_eloop(directory: Path) -> None:
    (directory / "a").symlink_to("b")
    (directory / "b").symlink_to("a")
    (directory / "self").symlink_to("self")
    for name in ("a", "b", "self"):
        with fails(errno.ELOOP):
            os.stat(directory / name)
        with fails(errno.ELOOP):
            os.open(directory / name / "below", os.O_RDONLY)


@check()
def chain_of_40_works_and_41_is_eloop(directory: Path) -> None:
    make(directory / "0")
    for index in range(41):
        (directory / str(index + 1)).symlink_to(str(index))
    equal(7, os.stat(directory / "40").st_size, "size through 40 links")
    with fails(errno.ELOOP):
        os.stat(directory / "41")


@check()
def leads_to_a_directory(directory: Path) -> None:
    (directory / "dir").mkdir()
    make(directory / "dir" / "file")
    (directory / "link").symlink_to("dir")
    equal(["file"], os.listdir(directory / "link"), "listing through the link")
    equal(b"content", (directory / "link" / "file").read_bytes(), "content through the link")
    make(directory / "link" / "new")
    ensure((directory / "dir" / "new").exists(), "a file made through the link is in the directory")
    with fails(errno.ENOTDIR):
        os.rmdir(directory / "link")


@check()
def relative_and_absolute_targets(directory: Path) -> None:
    (directory / "sub").mkdir()
    file = make(directory / "file")
    (directory / "sub" / "up").symlink_to("../file")
    (directory / "sub" / "absolute").symlink_to(file)
    (directory / "sub" / "roundabout").symlink_to("../sub/../sub/up")
    for name in ("up", "absolute", "roundabout"):
        equal(file.stat().st_ino, (directory / "sub" / name).stat().st_ino, name)


@check()
def dot_dot_after_a_link_is_the_targets_parent(directory: Path) -> None:
    (directory / "far" / "away").mkdir(parents=True)
    make(directory / "far" / "marker")
    (directory / "link").symlink_to("far/away")
    ensure(os.path.exists(f"{directory}/link/../marker"), "'link/..' is the parent of the target")


@check()
def unlink_removes_the_link_only(directory: Path) -> None:
    make(directory / "file")
    (directory / "link").symlink_to("file")
    (directory / "link").unlink()
    equal(["file"], os.listdir(directory), "listing")


@check()
def rename_moves_the_link_only(directory: Path) -> None:
    make(directory / "file")
    (directory / "link").symlink_to("file")
    (directory / "link").rename(directory / "moved")
    equal("file", os.readlink(directory / "moved"), "target")
    ensure((directory / "file").is_file(), "the file has stayed")


@check()
def o_nofollow_is_eloop(directory: Path) -> None:
    make(directory / "file")
    (directory / "link").symlink_to("file")
    with fails(errno.ELOOP):
        os.open(directory / "link", os.O_RDONLY | os.O_NOFOLLOW)
    os.close(os.open(directory / "file", os.O_RDONLY | os.O_NOFOLLOW))


@check()
def o_path_nofollow_opens_the_link(directory: Path) -> None:
    (directory / "link").symlink_to("target")
    with opened(directory / "link", os.O_PATH | os.O_NOFOLLOW) as fd:
        ensure(stat.S_ISLNK(os.fstat(fd).st_mode), "the fd is the link")
        equal("target", os.readlink("", dir_fd=fd), "target by the fd")


@check("root")
def lchown_changes_the_link(directory: Path) -> None:
    file = make(directory / "file")
    (directory / "link").symlink_to("file")
    os.lchown(directory / "link", 1234, 4321)
    equal((1234, 4321), ((directory / "link").lstat().st_uid, (directory / "link").lstat().st_gid), "owner")
    equal(os.getuid(), file.stat().st_uid, "owner of the target")
    os.chown(directory / "link", 77, 88)
    equal((77, 88), (file.stat().st_uid, file.stat().st_gid), "owner of the target after chown")


@check()
def replaced_link_leads_to_the_new_target(directory: Path) -> None:
    make(directory / "one", b"1")
    make(directory / "two", b"2")
    link, fresh = directory / "link", directory / "fresh"
    link.symlink_to("one")
    for target, content in (("two", b"2"), ("one", b"1")) * 5:
        link.read_bytes()
        fresh.symlink_to(target)
        fresh.rename(link)
        equal(content, link.read_bytes(), "content through the replaced link")


@check()
def with_trailing_slash(directory: Path) -> None:
    (directory / "dir").mkdir()
    make(directory / "file")
    (directory / "to_dir").symlink_to("dir")
    (directory / "to_file").symlink_to("file")
    ensure(stat.S_ISDIR(os.lstat(f"{directory}/to_dir/").st_mode), "a trailing slash follows the link")
    with fails(errno.ENOTDIR):
        os.lstat(f"{directory}/to_file/")
    with fails(errno.ENOTDIR):
        os.unlink(f"{directory}/to_dir/")
