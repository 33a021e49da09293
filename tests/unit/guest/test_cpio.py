"""Our archives, unpacked by somebody else's cpio."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

from ferryfs.guest import cpio
from ferryfs.guest.image import find_parts


def _unpack(archive: bytes, folder: Path) -> None:
    command = [str(find_parts().busybox), "cpio", "-i", "-d"]
    subprocess.run(command, input=archive, cwd=folder, check=True, stderr=subprocess.DEVNULL)


def test_an_archive_unpacks_to_what_went_in(tmp_path: Path) -> None:
    """Folders, files of every length modulo 4, links and modes."""
    contents = {f"folder/file{length}": bytes(range(length)) for length in range(9)}
    entries = [
        cpio.directory("folder", 0o711),
        *(cpio.Entry(name, stat.S_IFREG | 0o640, content) for name, content in contents.items()),
        cpio.Entry("folder/link", stat.S_IFLNK | 0o777, b"file3"),
        cpio.script("run", "#!/bin/sh\n"),
    ]
    _unpack(cpio.archive(entries), tmp_path)
    for name, content in contents.items():
        assert (tmp_path / name).read_bytes() == content
    assert (tmp_path / "folder" / "link").readlink() == Path("file3")
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o711
    assert stat.S_IMODE((tmp_path / "folder" / "file4").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o755


def test_a_tree_is_taken_without_what_is_skipped(tmp_path: Path) -> None:
    """Relative paths decide; what is below a skipped folder is skipped with it."""
    for name in ("a/kept", "a/skipped/below", "b"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("b")
    found = list(cpio.tree(tmp_path, frozenset({"a/skipped"})))
    assert [entry.name for entry in found] == ["a", "a/kept", "b", "link"]
    assert found[-1].content == b"b"
    assert stat.S_ISLNK(found[-1].mode)


def test_a_name_that_comes_twice_is_written_once(tmp_path: Path) -> None:
    """The first one counts."""
    entries = [cpio.Entry("name", stat.S_IFREG | 0o600, content) for content in (b"first", b"second")]
    _unpack(cpio.archive(entries), tmp_path)
    assert (tmp_path / "name").read_bytes() == b"first"
