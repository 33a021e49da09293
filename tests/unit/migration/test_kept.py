"""What a destination makes of what the source says: the guest has the same files, or an error, and never others."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from engine_guest import Call
from namespaces import needs_mounts

from ferryfs.errors import StateError
from ferryfs.migration import stream
from ferryfs.migration.state import StateV1, body
from ferryfs.migration.trailer_identities import InodeIdentities
from ferryfs.migration.trailer_records import Mounts, Unlinked
from ferryfs.passthrough.config import IdentityCheck, MigrationConfig, ShareConfig, StreamVersion, Ternary
from ferryfs.wire.fuse import ATTR_OUT, READ_IN, Op
from migration.sides import FIND_PATHS, GUEST_ERROR, MODES, Side, loaded, mode_of, moved, refusal

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="file handles can only be opened by root")


def attributes(side: Side, node: int) -> dict[str, int]:
    return ATTR_OUT.unpack(side.guest.ask(Op.GETATTR, node, bytes(16)))


@needs_mounts()
@pytest.mark.parametrize("config", [FIND_PATHS, GUEST_ERROR], ids=["abort", "guest-error"])
def test_overlayfs(config: MigrationConfig, tmp_path: Path, mount: Callable[..., Path]) -> None:
    """Handles there are for comparing only. A file that was replaced by one of the same size and time is noticed; one
    that was copied up, renamed or swapped is the same.
    """
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    for name in ("copied up", "renamed", "replaced", "one", "other"):
        (tmp_path / "lower" / name).write_text(f"{name:10}")
    layers = ",".join(f"{name}dir={tmp_path / name}" for name in ("lower", "upper", "work"))
    share = mount("share", "-t", "overlay", "-o", layers, "overlay")
    with Side(share, config) as source:
        nodes = {name: source.walk(name) for name in ("copied up", "renamed", "replaced", "one", "other")}
        handles = {name: source.guest.open(node, os.O_RDONLY) for name, node in nodes.items()}
        source.stop()
        data = source.save()
        trailer = stream.load(data).trailer
        assert trailer is not None
        shapes = [shape for record in trailer.records if isinstance(record, InodeIdentities) for shape in record.shapes]
        assert shapes
        assert not any(shape.openable for shape in shapes)
        times = (share / "replaced").stat()
        with (share / "copied up").open("r+") as file:
            file.write("C")
        (share / "renamed").rename(share / "new name")
        for old, new in (("one", "third"), ("other", "one"), ("third", "other")):
            (share / old).rename(share / new)
        (share / "replaced").unlink()
        (share / "replaced").write_text("X" * 10)
        os.utime(share / "replaced", ns=(times.st_atime_ns, times.st_mtime_ns))
        if config == FIND_PATHS:
            assert "another file has its name now" in refusal(data, share)
            return
        with loaded(data, share, config) as destination:
            for name in ("renamed", "one", "other"):
                assert destination.read(nodes[name], handles[name]) == f"{name:10}".encode(), name
            assert destination.read(nodes["copied up"], handles["copied up"]) == b"Copied up "
            body = READ_IN.pack(fh=handles["replaced"], size=10)
            assert destination.guest.refused(Op.READ, nodes["replaced"], body)


@pytest.mark.parametrize("config", MODES, ids=mode_of)
def test_tmpfs(config: MigrationConfig, tmp_path: Path, mount: Callable[..., Path]) -> None:
    if os.geteuid() != 0:
        pytest.skip("mount(2) needs root")
    share = mount("share", "-t", "tmpfs", "none")
    (share / "dir").mkdir()
    (share / "dir" / "file").write_text("content")
    with Side(share, config) as source:
        node = source.walk("dir/file")
        fh = source.guest.open(node)
        source.stop()
        data = source.save()
        (share / "dir" / "file").rename(share / "elsewhere")
        (share / "dir" / "file").write_text("CONTENT")
        with loaded(data, share, config) as destination:
            assert destination.read(node, fh) == b"content"


@needs_root
def test_more_nameless_files_than_cached_descriptors(tmp_path: Path) -> None:
    """Made anew from the stream, each is alive only as long as it is held: none may go before it is opened."""
    count = 300
    with Side(tmp_path) as source:
        held = []
        for number in range(count):
            (tmp_path / str(number)).write_text(str(number))
            node = source.walk(str(number))
            held.append((node, source.guest.open(node)))
            source.unlink(str(number))
        source.stop()
        data = source.save()
    with loaded(data, tmp_path) as destination:
        for number, (node, fh) in enumerate(held):
            assert destination.read(node, fh) == str(number).encode()


@pytest.mark.parametrize("beside", [True, False], ids=["source-lives", "source-gone"])
@pytest.mark.parametrize("config", MODES, ids=mode_of)
def test_inodes_without_a_name_that_nothing_has_open(config: MigrationConfig, beside: bool, tmp_path: Path) -> None:
    """They never fail a migration, not even one that aborts. What can be had has its attributes; a file whose content
    did not travel is not opened as an empty one.
    """
    if os.geteuid() != 0:
        pytest.skip("device nodes and file handles need root")
    never = replace(config, on_error=FIND_PATHS.on_error)
    (tmp_path / "file").write_text("content")
    (tmp_path / "empty").touch()
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to("some target")
    os.mkfifo(tmp_path / "fifo")
    os.mknod(tmp_path / "null", stat.S_IFCHR | 0o640, os.makedev(1, 3))
    names = ("file", "empty", "dir", "link", "fifo", "null")
    with Side(tmp_path, never) as source:
        nodes = {name: source.walk(name) for name in names}
        # Held by the host, as by a guest's O_PATH fd, or a process that sits in a directory.
        fds = [os.open(tmp_path / name, os.O_PATH | os.O_NOFOLLOW) for name in names]
        before = {name: attributes(source, node) for name, node in nodes.items()}
        for name in names:
            source.guest.ask(Op.RMDIR if name == "dir" else Op.UNLINK, 1, name.encode() + b"\0")
        source.stop()
        data = source.save()
        if beside:
            with loaded(data, tmp_path, never) as destination:
                fh = destination.guest.open(nodes["file"], os.O_RDONLY)
                assert destination.read(nodes["file"], fh) == b"content"
        for fd in fds:
            os.close(fd)
    if beside:
        return
    with loaded(data, tmp_path, never) as destination:
        for name, node in nodes.items():
            after = attributes(destination, node)
            for field in ("attr_mode", "attr_uid", "attr_gid", "attr_rdev", "attr_mtime", "attr_size"):
                if name != "dir" or field != "attr_size":
                    assert after[field] == before[name][field], f"{name} {field}"
        assert destination.guest.ask(Op.READLINK, nodes["link"]) == b"some target"
        assert destination.guest.refused(Op.OPEN, nodes["file"], bytes(8))
        assert destination.read(nodes["empty"], destination.guest.open(nodes["empty"], os.O_RDONLY)) == b""
        # And once more: still not an empty file.
        with moved(destination, never) as third:
            assert third.guest.refused(Op.OPEN, nodes["file"], bytes(8))
            assert attributes(third, nodes["file"])["attr_size"] == 7


@needs_root
def test_removed_between_save_and_load(tmp_path: Path) -> None:
    """What is only cached is no reason to fail. What is open is still there, as the source runs on this host."""
    (tmp_path / "cached").touch()
    (tmp_path / "open").write_text("content")
    with Side(tmp_path) as source:
        source.walk("cached")
        node = source.walk("open")
        fh = source.guest.open(node)
        source.stop()
        data = source.save()
        (tmp_path / "cached").unlink()
        (tmp_path / "open").unlink()
        with loaded(data, tmp_path) as destination:
            assert destination.read(node, fh) == b"content"
    # The source has gone, and its inode with it.
    assert "'open'" in refusal(data, tmp_path)


def test_a_carried_file_is_whole(tmp_path: Path) -> None:
    """Holes, mode, owner, times, attributes and ACLs of an open file without a name."""
    if os.geteuid() != 0:
        pytest.skip("another owner needs root")
    file = tmp_path / "file"
    with file.open("wb") as out:
        out.write(b"begin")
        out.seek(5 << 20)
        out.write(b"end")
        out.truncate(9 << 20)
    file.chmod(0o6751)
    os.chown(file, 1234, 4321)
    file.chmod(0o6751)
    # One more user with rw, as setfacl -m u:77:rw writes it.
    acl = bytes.fromhex("0200000001000700ffffffff020006004d00000004000500ffffffff10000700ffffffff20000100ffffffff")
    os.setxattr(file, "system.posix_acl_access", acl)
    os.setxattr(file, "user.colour", b"blue")
    os.setxattr(file, "trusted.secret", b"key")
    os.utime(file, ns=(1_111_111_111_222_222_222, 1_333_333_333_444_444_444))
    before = file.stat()
    with Side(tmp_path) as source:
        node = source.walk("file")
        fh = source.guest.open(node)
        source.unlink("file")
        source.stop()
        data = source.save()
    assert len(data) < 1 << 16
    with loaded(data, tmp_path) as destination:
        assert destination.read(node, fh) == b"begin" + bytes(4091)
        found = [fd for fd in os.listdir("/proc/self/fd") if _inode(fd) == attributes(destination, node)["attr_ino"]]
        path = f"/proc/self/fd/{found[0]}"
        after = os.stat(path)
        for field in ("st_mode", "st_uid", "st_gid", "st_size", "st_mtime_ns"):
            assert getattr(after, field) == getattr(before, field), field
        assert after.st_blocks * 512 < 1 << 20
        assert {name: os.getxattr(path, name) for name in os.listxattr(path)} == {
            "system.posix_acl_access": acl,
            "user.colour": b"blue",
            "trusted.secret": b"key",
        }
        with open(path, "rb") as again:
            again.seek(5 << 20)
            assert again.read(3) == b"end"


def _inode(fd: str) -> int:
    try:
        return os.stat(f"/proc/self/fd/{fd}").st_ino
    except OSError:
        return 0


def test_a_lost_file_whose_directory_was_forgotten(tmp_path: Path) -> None:
    """The state of the next source must not say a parent that it has not: it would be refused for ever."""
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "file").write_text("content")
    with Side(tmp_path) as source:
        folder, node = source.walk("dir"), source.walk("dir/file")
        fh = source.guest.open(node)
        source.stop()
        data = source.save()
    (tmp_path / "dir" / "file").unlink()
    with loaded(data, tmp_path, GUEST_ERROR) as destination:
        # Looked up by itself and on the way to the file.
        destination.forget(folder, 2)
        with moved(destination, GUEST_ERROR) as third:
            assert third.guest.refused(Op.READ, node, READ_IN.pack(fh=fh, size=10))


@pytest.mark.parametrize("config", MODES, ids=mode_of)
def test_names_that_are_not_utf8(config: MigrationConfig, tmp_path: Path) -> None:
    """Of a directory, of what is in it, and of a path through a directory that the guest does not hold."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    names = (os.fsdecode(b"caf\xe9/\xff"), os.fsdecode(b"caf\xe9/plain"), "moved")
    for name in names:
        (tmp_path / name).write_text("content")
    (tmp_path / "far").mkdir()
    with Side(tmp_path, config) as source:
        nodes = [source.walk(name) for name in names]
        handles = [source.guest.open(node) for node in nodes]
        (tmp_path / "moved").rename(tmp_path / "far" / os.fsdecode(b"\xfe"))
        with moved(source, config) as destination:
            for node, fh in zip(nodes, handles, strict=True):
                assert destination.read(node, fh) == b"content"


@pytest.mark.parametrize("config", MODES, ids=mode_of)
def test_there_and_back_many_times(config: MigrationConfig, tmp_path: Path) -> None:
    """Ten moves. A file that is out of the share for some of them is lost, passed on, and found again; nothing else is
    touched by that, and what is made meanwhile gets numbers of its own.
    """
    share, outside = tmp_path / "share", tmp_path / "outside"
    (share / "dir").mkdir(parents=True)
    for name in ("a", "b", "dir/c"):
        (share / name).write_text(name)
    config = replace(config, on_error=GUEST_ERROR.on_error)
    side = Side(share, config)
    try:
        nodes = {name: side.walk(name) for name in ("a", "b", "dir/c")}
        handles = {name: side.guest.open(node, os.O_RDWR) for name, node in nodes.items()}
        used = set(nodes.values())
        for turn in range(10):
            side.stop()
            data = side.save()
            side.close()
            if turn == 2:
                # As another one of that content, so that nothing but its handle tells.
                shutil.move(share / "b", outside)
                (share / "b").write_text("b")
            if turn == 5:
                outside.replace(share / "b")
            side = Side(share, config, init=False)
            side.stop()
            side.load(data)
            side.go_on()
            for name in ("a", "dir/c") if 2 <= turn < 5 else ("a", "b", "dir/c"):
                assert side.read(nodes[name], handles[name]) == name.encode(), f"{name} in turn {turn}"
            if 2 <= turn < 5:
                assert side.guest.refused(Op.READ, nodes["b"], READ_IN.pack(fh=handles["b"], size=10))
            (share / f"new{turn}").touch()
            made = side.walk(f"new{turn}")
            assert made not in used
            used.add(made)
    finally:
        side.close()


def test_a_copy_with_another_time_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It may be another version of the file, of the same size; an exact copy is none."""
    share, copy = tmp_path / "share", tmp_path / "copy"
    share.mkdir()
    for name in ("exact", "aged"):
        (share / name).write_text(name)
    shutil.copytree(share, copy)
    with Side(share) as source:
        nodes = {name: source.walk(name) for name in ("exact", "aged")}
        source.stop()
        data = source.save()
    os.utime(copy / "aged")
    with loaded(data, copy):
        pass
    assert "1 files of the copy were changed at another time than the source's" in caplog.text
    assert f"inode {nodes['aged']} ('aged')" in caplog.text
    assert f"inode {nodes['exact']}" not in caplog.text


@needs_mounts("mkfs.ext4")
@pytest.mark.parametrize("host", [None, b"another host"], ids=["same-host", "other-host"])
def test_a_diverged_block_clone(host: bytes | None, tmp_path: Path, mount: Callable[..., Path]) -> None:
    """A file replaced by one of the same size is noticed by its handle; one that a copying tool brought there, with its
    time of change, is a copy on the same host, where the clone is known to be one.
    """
    image, clone = tmp_path / "one.img", tmp_path / "two.img"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-E", "root_owner=0:0", image], check=True)
    share = mount("share", "-o", "loop", image)
    for name in ("left", "replaced", "synced"):
        (share / name).write_text(f"{name:8}")
    times = (share / "synced").stat()
    os.sync()
    shutil.copyfile(image, clone)
    other = mount("other", "-o", "loop", clone)
    for name in ("replaced", "synced"):
        (other / "new").write_text("another!")
        (other / "new").replace(other / name)
    os.utime(other / "synced", ns=(times.st_atime_ns, times.st_mtime_ns))
    for names in (("left",), ("left", "synced"), ("left", "replaced")):
        with Side(share, host=host) as source:
            held = {name: source.walk(name) for name in names}
            handles = {name: source.guest.open(node, os.O_RDONLY) for name, node in held.items()}
            source.stop()
            data = source.save()
        if "replaced" in names or ("synced" in names and host is not None):
            assert "another file has its name now" in refusal(data, other)
            continue
        with loaded(data, other) as destination:
            assert destination.read(held["left"], handles["left"]) == b"left    "
            if "synced" in names:
                assert destination.read(held["synced"], handles["synced"]) == b"another!"


@needs_mounts("mkfs.ext4")
def test_what_a_clone_does_not_have_is_not_found_in_it_later(tmp_path: Path, mount: Callable[..., Path]) -> None:
    """A handle of the original says nothing of the clone, to the next destination there either."""
    image, clone = tmp_path / "one.img", tmp_path / "two.img"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-E", "root_owner=0:0", image], check=True)
    share = mount("share", "-o", "loop", image)
    (share / "file").write_text("as it was")
    os.sync()
    shutil.copyfile(image, clone)
    other = mount("other", "-o", "loop", clone)
    (other / "file").write_text("as it has become since")
    with Side(share, GUEST_ERROR) as source:
        node = source.walk("file")
        fh = source.guest.open(node, os.O_RDONLY)
        source.stop()
        data = source.save()
    for _ in range(2):
        with loaded(data, other, GUEST_ERROR) as destination:
            assert destination.guest.refused(Op.READ, node, READ_IN.pack(fh=fh, size=100))
            assert destination.guest.refused(Op.GETATTR, node, bytes(16))
            destination.stop()
            data = destination.save()


def test_files_are_compared_where_nothing_is_known_of_the_directory(tmp_path: Path) -> None:
    """By type and size, as in a copy."""
    (tmp_path / "file").write_text("as it was")
    with Side(tmp_path) as source:
        source.walk("file")
        source.stop()
        found = stream.load(source.save())
    assert found.trailer is not None
    records = [
        replace(record, shapes=(), shape_of=b"\xff" * len(record.ids), handles=b"")
        if isinstance(record, InodeIdentities)
        else record
        for record in found.trailer.records
        if not isinstance(record, Mounts)
    ]
    data = b"".join(stream.save(found.state, records))
    with loaded(data, tmp_path):
        pass
    (tmp_path / "file").write_text("as it has become since")
    assert "it has 22 bytes here, but 9 at the source" in refusal(data, tmp_path)
    require = replace(FIND_PATHS, identity=IdentityCheck.REQUIRE)
    assert "the stream does not say which directory" in refusal(data, tmp_path, require)


@needs_mounts()
def test_more_mounts_than_one_record_can_tell_apart(tmp_path: Path, mount: Callable[..., Path]) -> None:
    """Each file is known by its handle all the same."""
    for number in range(260):
        (mount(f"m{number}", "-t", "tmpfs", "none") / "file").write_text("the same size")
    with Side(tmp_path) as source:
        nodes = [source.walk(f"m{number}/file") for number in range(260)]
        source.stop()
        data = source.save()
    for number in (0, 259):
        (tmp_path / f"m{number}" / "file").unlink()
        (tmp_path / f"m{number}" / "file").write_text("another thing")
    with loaded(data, tmp_path, GUEST_ERROR) as destination:
        for number, node in enumerate(nodes):
            answer = destination.guest.send(Call(Op.GETATTR, node, bytes(16)))
            assert bool(answer.error) == (number in (0, 259)), number


SWITCHES = {
    "--writeback": ShareConfig(writeback=True),
    "--announce-submounts": ShareConfig(),
    "--xattr": ShareConfig(xattr=True, posix_acl=Ternary.NEVER, security_label=Ternary.NEVER),
    "--posix-acl": ShareConfig(xattr=True),
    "--security-label": ShareConfig(xattr=True),
    "--killpriv-v2": ShareConfig(killpriv_v2=True),
    "--allow-mmap": ShareConfig(allow_mmap=True),
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_an_option_that_the_guest_relies_on(switch: str, tmp_path: Path) -> None:
    """Each that the destination lacks is named; with all of them it goes on."""
    there = SWITCHES[switch]
    lacks = {
        "--announce-submounts": replace(there, announce_submounts=False),
        "--posix-acl": replace(there, posix_acl=Ternary.NEVER),
        "--security-label": replace(there, security_label=Ternary.NEVER),
    }
    with Side(tmp_path, config=there) as source:
        source.stop()
        data = source.save()
    with Side(tmp_path, config=lacks.get(switch, ShareConfig()), init=False) as destination:
        destination.stop()
        with pytest.raises(StateError, match=f"was not started with: add {switch}"):
            destination.load(data)
    with loaded(data, tmp_path, share_config=there) as destination:
        destination.guest.serves()


def test_v1(tmp_path: Path) -> None:
    """The older stream, with everything in its trailer."""
    (tmp_path / "file").write_text("content")
    with Side(tmp_path, replace(FIND_PATHS, stream=StreamVersion.V1)) as source:
        node = source.walk("file")
        fh = source.guest.open(node)
        source.unlink("file")
        source.stop()
        data = source.save()
    found = stream.load(data)
    assert isinstance(found.state, StateV1)
    assert data[0] == 0
    assert len(body(found.state).handles) == 1
    assert found.trailer is not None
    assert any(isinstance(record, Unlinked) for record in found.trailer.records)
    with loaded(data, tmp_path) as destination:
        assert destination.read(node, fh) == b"content"


@pytest.mark.parametrize("config", MODES, ids=mode_of)
def test_what_is_stale_stays_stale(config: MigrationConfig, tmp_path: Path) -> None:
    """A cached file that was removed on the host fails no migration, neither the first nor any after it."""
    (tmp_path / "file").touch()
    with Side(tmp_path, config) as source:
        node = source.walk("file")
        os.unlink(tmp_path / "file")
        source.stop()
        data = source.save()
    for _ in range(3):
        with loaded(data, tmp_path, config) as side:
            assert side.guest.refused(Op.GETATTR, node, bytes(16)) == errno.ESTALE
            side.stop()
            data = side.save()
