"""The lines of the README, run as they stand there."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

from ferryfs.guest.image import find_parts, initramfs

README = Path(__file__).parent.parent.parent / "README.md"

PROMPT = b"/ # "
TIMEOUT = 90.0


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)


def _at_the_console(script: str, typed: str, folder: Path) -> tuple[int, str]:
    """Run a shell script whose program shows a shell's prompt, type at that, and return its status and output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        ["sh", "-e", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    output = b""
    deadline = time.monotonic() + TIMEOUT
    try:
        with process.stdin, process.stdout:
            prompted = False
            while chunk := _read(process.stdout.fileno(), deadline):
                output += chunk
                if not prompted and PROMPT in output:
                    prompted = True
                    process.stdin.write(typed.encode())
                    process.stdin.flush()
        return process.wait(deadline - time.monotonic()), output.decode(errors="replace")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _read(fd: int, deadline: float) -> bytes:
    readable, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
    assert readable, "the console says nothing any more"
    return os.read(fd, 65536)


def test_the_qemu_line_of_the_readme(tmp_path: Path) -> None:
    """Daemon and guest by the README's commands; the guest's, and a look at the share, on the guest's console."""
    start, inside = _blocks("sh")
    assert start.startswith("ferryfsd")
    parts = find_parts()
    (tmp_path / "vmlinuz").symlink_to(parts.kernel)
    (tmp_path / "initramfs.cpio").symlink_to(initramfs(parts))
    (tmp_path / "share").mkdir()
    (tmp_path / "share" / "note").write_text("as written")
    # QEMU connects once: where a person takes a breath, the shell waits for the socket. The daemon's status, which ends
    # when QEMU does, is the last word.
    script = start.replace("&\n", "&\nuntil test -S ferry.sock; do :; done\n", 1) + "\nwait $!\n"
    typed = f"{inside}cat /mnt/note && echo; echo 'by the ''guest' >/mnt/answer; umount /mnt; poweroff -f\n"
    status, output = _at_the_console(script, typed, tmp_path)
    assert status == 0, output
    assert "as written" in output
    assert (tmp_path / "share" / "answer").read_text() == "by the guest\n"


def test_the_xml_of_the_readme_is_whole() -> None:
    """A document that parses, with the shared memory without which nothing works."""
    (text,) = _blocks("xml")
    domain = ElementTree.fromstring(text)
    assert domain.find("memoryBacking/access[@mode='shared']") is not None
    assert domain.find("devices/filesystem/driver[@type='virtiofs']") is not None
