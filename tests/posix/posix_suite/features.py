"""What a host directory offers. Probed on the bare directory only: a mount that lacks something must fail, not skip."""

import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from .files import opened
from .syscalls import (
    FALLOC_COLLAPSE_RANGE,
    FALLOC_KEEP_SIZE,
    FALLOC_PUNCH_HOLE,
    FALLOC_ZERO_RANGE,
    FS_IOC_FSGETXATTR,
    FS_IOC_GETFLAGS,
    RENAME_EXCHANGE,
    RENAME_WHITEOUT,
    STATX_BTIME,
    fallocate,
    renameat2,
    statx,
)

MINIMAL_ACL: Final = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permission, 0xFFFFFFFF if tag != 2 else 12345)
    for tag, permission in ((1, 6), (2, 4), (4, 4), (0x10, 4), (0x20, 4))
)


def _root(directory: Path) -> bool:
    return os.geteuid() == 0


def _symlink_4095(directory: Path) -> bool:
    os.symlink("/".join(["t" * 250] * 20)[:4095], directory / "probe")
    return True


def _xattr(name: str, directory: Path) -> bool:
    (directory / "probe").touch()
    os.setxattr(directory / "probe", name, b"value")
    return True


def _acl(directory: Path) -> bool:
    (directory / "probe").touch()
    os.setxattr(directory / "probe", "system.posix_acl_access", MINIMAL_ACL)
    return True


def _allocating(mode: int, directory: Path) -> bool:
    (directory / "probe").write_bytes(b"x" * 65_536 * 4)
    with opened(directory / "probe", os.O_RDWR) as fd:
        fallocate(fd, mode, 65_536, 65_536)
    return True


def _holes(directory: Path) -> bool:
    with opened(directory / "probe", os.O_RDWR | os.O_CREAT) as fd:
        os.pwrite(fd, b"x", 1 << 22)
        os.fsync(fd)
        return os.lseek(fd, 0, os.SEEK_DATA) > 0


def _large_files(directory: Path) -> bool:
    with opened(directory / "probe", os.O_RDWR | os.O_CREAT) as fd:
        os.ftruncate(fd, (1 << 40) + 5)
    return True


def _tmpfile(directory: Path) -> bool:
    with opened(directory, os.O_TMPFILE | os.O_RDWR):
        return True


def _direct(directory: Path) -> bool:
    (directory / "probe").write_bytes(b"x" * 8192)
    with opened(directory / "probe", os.O_RDONLY | os.O_DIRECT):
        return True


def _rename_flags(directory: Path) -> bool:
    (directory / "one").touch()
    (directory / "two").touch()
    renameat2(directory / "one", directory / "two", RENAME_EXCHANGE)
    return True


def _whiteout(directory: Path) -> bool:
    (directory / "one").touch()
    renameat2(directory / "one", directory / "two", RENAME_WHITEOUT)
    return True


def _time(seconds: int, directory: Path) -> bool:
    (directory / "probe").touch()
    os.utime(directory / "probe", ns=(seconds * 10**9, seconds * 10**9))
    return (directory / "probe").stat().st_mtime == seconds


def _relatime(directory: Path) -> bool:
    (directory / "probe").write_bytes(b"x")
    os.utime(directory / "probe", (1_000_000_000, 1_000_000_001))
    (directory / "probe").read_bytes()
    return (directory / "probe").stat().st_atime > 1_000_000_000


def _directory_links(directory: Path) -> bool:
    (directory / "sub").mkdir()
    return directory.stat().st_nlink == 3


def _birth_time(directory: Path) -> bool:
    return bool(statx(directory).mask & STATX_BTIME)


def _ioctl(request: int, size: int, directory: Path) -> bool:
    import fcntl

    (directory / "probe").touch()
    with opened(directory / "probe") as fd:
        fcntl.ioctl(fd, request, bytes(size))
    return True


def _executable(directory: Path) -> bool:
    return not os.statvfs(directory).f_flag & os.ST_NOEXEC


def _device_nodes(directory: Path) -> bool:
    os.mknod(directory / "probe", 0o20600, os.makedev(1, 3))
    return True


def _devices_open(directory: Path) -> bool:
    os.mknod(directory / "probe", 0o20600, os.makedev(1, 3))
    with opened(directory / "probe", os.O_RDWR):
        return True


def _with(probe: Callable[..., bool], *arguments: object) -> Callable[[Path], bool]:
    return lambda directory: probe(*arguments, directory)


# Name, what is missing where the probe fails, and the probe.
FEATURES: Final[dict[str, tuple[str, Callable[[Path], bool]]]] = {
    "root": ("the checks do not run as root", _root),
    "symlink_4095": ("no symlinks of 4095 bytes", _symlink_4095),
    "user_xattr": ("no user.* attributes", _with(_xattr, "user.probe")),
    "trusted_xattr": ("no trusted.* attributes", _with(_xattr, "trusted.probe")),
    "acl": ("no POSIX ACLs", _acl),
    "fallocate": ("no fallocate", _with(_allocating, FALLOC_KEEP_SIZE)),
    "punch_hole": ("no hole punching", _with(_allocating, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE)),
    "zero_range": ("no FALLOC_FL_ZERO_RANGE", _with(_allocating, FALLOC_ZERO_RANGE)),
    "collapse_range": ("no FALLOC_FL_COLLAPSE_RANGE", _with(_allocating, FALLOC_COLLAPSE_RANGE)),
    "holes": ("no sparse files with SEEK_DATA", _holes),
    "large_files": ("no files of 1 TiB", _large_files),
    "tmpfile": ("no O_TMPFILE", _tmpfile),
    "direct": ("no O_DIRECT", _direct),
    "rename_flags": ("no renameat2 with flags", _rename_flags),
    "whiteout": ("no RENAME_WHITEOUT", _whiteout),
    "times_before_1970": ("no times before 1970", _with(_time, -300_000_000)),
    "times_after_2106": ("no times after 2106", _with(_time, 2**32 + 77)),
    "relatime": ("mounted with noatime", _relatime),
    "directory_links": ("directories have no link count", _directory_links),
    "birth_time": ("no birth times", _birth_time),
    "flags_ioctl": ("no FS_IOC_GETFLAGS", _with(_ioctl, FS_IOC_GETFLAGS, 8)),
    "fsxattr_ioctl": ("no FS_IOC_FSGETXATTR", _with(_ioctl, FS_IOC_FSGETXATTR, 28)),
    "exec": ("mounted with noexec", _executable),
    "device_nodes": ("device nodes can't be made here", _device_nodes),
    "device_open": ("device nodes can't be opened here", _devices_open),
}


@contextmanager
def _probe_directory(parent: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=".probe-", dir=parent) as name:
        yield Path(name)


def probe(directory: Path) -> frozenset[str]:
    """The names of the features that this directory has."""
    found = set()
    for name, (_, has) in FEATURES.items():
        with _probe_directory(directory) as inside, suppress(OSError):
            if has(inside):
                found.add(name)
    return frozenset(found)


def missing(needs: tuple[str, ...], features: frozenset[str]) -> str | None:
    """Why a check that needs these can't run, or None if it can."""
    reasons = [FEATURES[name][0] for name in needs if name not in features]
    return ", ".join(reasons) or None
