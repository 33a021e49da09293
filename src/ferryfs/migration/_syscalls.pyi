from typing import Final

AT_EMPTY_PATH: Final[int]
AT_SYMLINK_NOFOLLOW: Final[int]
AT_STATX_FORCE_SYNC: Final[int]
AT_HANDLE_FID: Final[int]
STATX_BASIC: Final[int]
STATX_BTIME: Final[int]
STATX_MNT_ID: Final[int]
RESOLVE_NO_XDEV: Final[int]
RESOLVE_NO_MAGICLINKS: Final[int]
RESOLVE_NO_SYMLINKS: Final[int]
RESOLVE_BENEATH: Final[int]
RESOLVE_IN_ROOT: Final[int]

class Statx:
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    ino: int
    dev: int
    mnt_id: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int

def name_to_handle_at(dir_fd: int, name: bytes, flags: int) -> tuple[int, bytes, int]: ...
def open_by_handle_at(mount_fd: int, handle_type: int, handle: bytes, flags: int) -> int: ...
def syncfs(fd: int) -> None: ...
def statx(dir_fd: int, name: bytes, flags: int, mask: int) -> Statx: ...
def file_system(fd: int) -> tuple[int, int, int]: ...
def file_system_uuid(fd: int) -> bytes: ...
def openat2(dir_fd: int, path: bytes, flags: int, resolve: int) -> int: ...
def read_directory(fd: int, most_bytes: int) -> list[tuple[int, int, int, bytes]] | None: ...
def give_memory_back() -> None: ...
