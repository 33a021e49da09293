"""FIFOs, sockets and device nodes."""

import errno
import os
import socket
import stat
from pathlib import Path

from ..assertions import ensure, equal, fails
from ..files import kind_of, make, mode_of, opened
from ..processes import Child, umask, working_directory
from ..registry import check


@check()
def mknod_makes_what_is_asked(directory: Path) -> None:
    with umask(0o022):
        for name, kind in (("file", stat.S_IFREG), ("fifo", stat.S_IFIFO), ("socket", stat.S_IFSOCK)):
            os.mknod(directory / name, kind | 0o666)
            equal(kind, kind_of(directory / name), f"type of the {name}")
            equal(0o644, mode_of(directory / name), f"mode of the {name}")
    with fails(errno.EEXIST):
        os.mknod(directory / "file", stat.S_IFIFO | 0o600)
    with fails(errno.EPERM, errno.EINVAL):
        os.mknod(directory / "dir", stat.S_IFDIR | 0o700)
    make(directory / "file")


@check()
def fifo_carries_data_between_processes(directory: Path) -> None:
    fifo = directory / "fifo"
    os.mkfifo(fifo)

    def write() -> None:
        with opened(fifo, os.O_WRONLY) as fd:
            for _ in range(10):
                os.write(fd, b"x" * 10_000)

    child = Child(write)
    equal(b"x" * 100_000, fifo.read_bytes(), "what came through")
    child.wait()
    equal(0, fifo.stat().st_size, "size")


@check()
def fifo_without_a_reader_is_enxio(directory: Path) -> None:
    os.mkfifo(directory / "fifo")
    with fails(errno.ENXIO):
        os.open(directory / "fifo", os.O_WRONLY | os.O_NONBLOCK)
    with opened(directory / "fifo", os.O_RDONLY | os.O_NONBLOCK) as reader:
        equal(b"", os.read(reader, 10), "what is read without a writer")
        with opened(directory / "fifo", os.O_WRONLY | os.O_NONBLOCK) as writer:
            os.write(writer, b"through")
            equal(b"through", os.read(reader, 10), "what came through")


@check()
def fifo_can_not_seek_or_sync(directory: Path) -> None:
    os.mkfifo(directory / "fifo")
    with opened(directory / "fifo", os.O_RDWR) as fd:
        with fails(errno.ESPIPE):
            os.lseek(fd, 0, os.SEEK_SET)
        with fails(errno.EINVAL):
            os.fsync(fd)
        with fails(errno.EINVAL):
            os.ftruncate(fd, 0)


@check()
def fifo_is_renamed_and_unlinked_while_open(directory: Path) -> None:
    os.mkfifo(directory / "fifo")
    with opened(directory / "fifo", os.O_RDWR) as fd:
        (directory / "fifo").rename(directory / "moved")
        with opened(directory / "moved", os.O_WRONLY | os.O_NONBLOCK) as writer:
            os.write(writer, b"through")
        (directory / "moved").unlink()
        equal(b"through", os.read(fd, 10), "what came through")
        equal(0, os.fstat(fd).st_nlink, "links")


@check()
def chmod_and_times_of_a_fifo(directory: Path) -> None:
    fifo = directory / "fifo"
    os.mkfifo(fifo)
    fifo.chmod(0o612)
    os.utime(fifo, ns=(5, 6))
    equal((0o612, 6), (mode_of(fifo), fifo.stat().st_mtime_ns), "mode and mtime")


@check()
def socket_accepts_connections(directory: Path) -> None:
    with working_directory(directory), socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        server.listen(1)

        def connect() -> None:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect("socket")
                client.sendall(b"ping")
                equal(b"pong", client.recv(10), "answer")

        child = Child(connect)
        connection, _ = server.accept()
        with connection:
            equal(b"ping", connection.recv(10), "question")
            connection.sendall(b"pong")
        child.wait()
    equal(stat.S_IFSOCK, kind_of(directory / "socket"), "type after the server is gone")


@check()
def socket_name_is_taken_once(directory: Path) -> None:
    with working_directory(directory):
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            first.bind("socket")
            with fails(errno.EADDRINUSE):
                second.bind("socket")
        with socket.socket(socket.AF_UNIX) as client, fails(errno.ECONNREFUSED):
            client.connect("socket")
        make(Path("file"))
        with socket.socket(socket.AF_UNIX) as client, fails(errno.ECONNREFUSED):
            client.connect("file")
        os.unlink("socket")
        with socket.socket(socket.AF_UNIX) as client, fails(errno.ENOENT):
            client.connect("socket")


@check()
def datagram_socket(directory: Path) -> None:
    with working_directory(directory), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("socket")
        os.rename("socket", "renamed")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"message", "renamed")
        equal(b"message", receiver.recv(100), "message")


@check("root", "device_nodes")
def device_numbers(directory: Path) -> None:
    for kind in (stat.S_IFCHR, stat.S_IFBLK):
        for major, minor in ((1, 3), (0, 0), (4, 255), (254, 256), (4095, 1_048_575)):
            path = directory / f"{kind}.{major}.{minor}"
            os.mknod(path, kind | 0o640, os.makedev(major, minor))
            status = path.lstat()
            equal(kind, stat.S_IFMT(status.st_mode), "type")
            equal((major, minor), (os.major(status.st_rdev), os.minor(status.st_rdev)), "device number")


@check("root", "device_open")
def device_node_leads_to_the_device(directory: Path) -> None:
    os.mknod(directory / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with opened(directory / "null", os.O_RDWR) as fd:
        equal(5, os.write(fd, b"12345"), "bytes written")
        equal(b"", os.read(fd, 10), "bytes read")


@check()
def links_to_special_files(directory: Path) -> None:
    os.mkfifo(directory / "fifo")
    os.link(directory / "fifo", directory / "again")
    with opened(directory / "fifo", os.O_RDWR) as one, opened(directory / "again", os.O_RDWR) as two:
        os.write(one, b"x")
        equal(b"x", os.read(two, 10), "what came through the other name")


@check()
def special_files_in_a_listing(directory: Path) -> None:
    os.mkfifo(directory / "fifo")
    os.mknod(directory / "socket", stat.S_IFSOCK | 0o600)
    make(directory / "file")
    entries = {entry.name: entry for entry in os.scandir(directory)}
    equal({"fifo", "socket", "file"}, set(entries), "listing")
    ensure(entries["file"].is_file(), "the file is a file")
    ensure(not entries["fifo"].is_file() and not entries["socket"].is_file(), "the others are none")


@check()
def fifo_directory_operations_are_refused(directory: Path) -> None:
    os.mkfifo(directory / "fifo")
    with fails(errno.ENOTDIR):
        os.stat(directory / "fifo" / "below")
    with fails(errno.ENOTDIR):
        os.rmdir(directory / "fifo")
    with fails(errno.ENOTDIR):
        os.open(directory / "fifo", os.O_RDONLY | os.O_DIRECTORY)
