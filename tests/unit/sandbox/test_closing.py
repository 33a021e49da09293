"""After the root has changed nothing is loaded from the file system: a share that is full of bait, in every mode."""

from pathlib import Path

import pytest

from .conftest import Inside

ERRORS = """
for attempt in (
    lambda: __import__("smtplib"),
    lambda: __import__("encodings.cp1252"),
    lambda: "x".encode("cp1252"),
    lambda: "x".encode("idna"),
    lambda: os.open("/nowhere", os.O_RDONLY),
    lambda: 1 / 0,
):
    try:
        attempt()
    except Exception as error:
        print(type(error).__name__, str(error).encode("utf-8", "surrogateescape") and "")
import time
print(time.localtime(0).tm_hour, time.gmtime(0).tm_hour)
threads = [threading.Thread(target=lambda: 1 / 0) for _ in range(2)]
[t.start() for t in threads]
[t.join() for t in threads]
raise ValueError("a traceback")
"""


@pytest.mark.parametrize("mode", ["namespace", "chroot"])
def test_bait_is_never_taken(inside: Inside, share: Path, mode: str) -> None:
    trap = "open('/TAKEN', 'w').close()\nprint('TAKEN')\n"
    for place in ("usr/lib/python3.11", "usr/lib/python3.12", "usr/lib/python3.13", "usr/local/lib/python3.11", "."):
        folder = share / place
        (folder / "encodings").mkdir(parents=True)
        for name in ("smtplib.py", "traceback.py", "linecache.py", "encodings/cp1252.py", "encodings/__init__.py"):
            (folder / name).write_text(trap)
    for name in ("lib/x86_64-linux-gnu/libgcc_s.so.1", "usr/lib/libgcc_s.so.1", "etc/nsswitch.conf", "etc/localtime"):
        (share / name).parent.mkdir(parents=True, exist_ok=True)
        (share / name).write_bytes(b"TAKEN")
    outcome = inside(ERRORS, mode=mode)
    words = [line.split()[0] for line in outcome.said.splitlines()]
    expected = ["ModuleNotFoundError", "ModuleNotFoundError", "LookupError", "LookupError", "FileNotFoundError"]
    assert words == [*expected, "ZeroDivisionError", "0"]
    assert "ValueError: a traceback" in outcome.complained
    assert "TAKEN" not in outcome.said + outcome.complained
    assert not (share / "TAKEN").exists()
