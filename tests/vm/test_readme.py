"""The lines of the README, run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from ferryfs.guest.image import find_parts, initramfs

README = Path(__file__).parent.parent.parent / "README.md"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)


def test_the_qemu_line_of_the_readme(tmp_path: Path) -> None:
    """Daemon and guest by the README's commands; the guest's, and a look at the share, on the guest's console."""
    start, inside = _blocks("sh")
    assert start.startswith("ferryfsd")
    parts = find_parts()
    (tmp_path / "vmlinuz").symlink_to(parts.kernel)
    (tmp_path / "initramfs.cpio").symlink_to(initramfs(parts))
    (tmp_path / "share").mkdir()
    (tmp_path / "share" / "note").write_text("as written")
    # The daemon is in the background: the shell has to wait for it, and its status is the last word. QEMU connects once:
    # what a person's fingers do, the shell does here by waiting for the socket.
    script = start.replace("&\n", "&\nuntil test -S ferry.sock; do :; done\n", 1) + "\nwait $!\n"
    typed = f"{inside}cat /mnt/note && echo; echo 'by the ''guest' >/mnt/answer; umount /mnt; poweroff -f\n"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-e", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        input=typed,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=180,
    )
    assert done.returncode == 0, done.stdout
    assert "as written" in done.stdout
    assert (tmp_path / "share" / "answer").read_text() == "by the guest\n"


def test_the_xml_of_the_readme_is_whole() -> None:
    """A document that parses, with the shared memory without which nothing works."""
    (text,) = _blocks("xml")
    domain = ElementTree.fromstring(text)
    assert domain.find("memoryBacking/access[@mode='shared']") is not None
    assert domain.find("devices/filesystem/driver[@type='virtiofs']") is not None
