"""Files and directories that belong to somebody."""

import os
from pathlib import Path

from .files import make
from .processes import User


def owner_of(path: Path) -> tuple[int, int]:
    """User and group, of a link itself."""
    status = path.lstat()
    return status.st_uid, status.st_gid


def home_of(directory: Path, user: User, mode: int = 0o755) -> Path:
    """A directory of this user."""
    home = directory / f"home{user.uid}"
    home.mkdir()
    os.chown(home, user.uid, user.gid)
    home.chmod(mode)
    return home


def file_of(directory: Path, user: User, mode: int, content: bytes = b"content") -> Path:
    """A file of this user."""
    file = make(directory / f"file{user.uid}", content)
    os.chown(file, user.uid, user.gid)
    file.chmod(mode)
    return file
