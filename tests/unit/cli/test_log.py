"""Levels, RUST_LOG, and the journal's mark."""

import os
import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ferryfs.cli.log import journal_reads_stderr, rust_log_level, traceback_text
from ferryfs.cli.options import LogLevel


@pytest.mark.parametrize(
    ("spec", "level"),
    [
        (None, None),
        ("", None),
        ("debug", LogLevel.DEBUG),
        ("WARN", LogLevel.WARN),
        ("virtiofsd=trace", LogLevel.TRACE),
        ("vhost=trace", None),
        ("vhost=trace,info", LogLevel.INFO),
        ("ferryfsd=error,info", LogLevel.INFO),
        ("virtiofsd", None),
        ("debug/regex", LogLevel.DEBUG),
        ("=,=/,,x=y=z", None),
    ],
)
def test_rust_log(spec: str | None, level: LogLevel | None) -> None:
    assert rust_log_level(spec) is level


def test_journal_is_recognised_by_the_socket() -> None:
    status = os.fstat(2)
    assert journal_reads_stderr({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
    assert not journal_reads_stderr({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"})
    assert not journal_reads_stderr({"JOURNAL_STREAM": "nonsense"})
    assert not journal_reads_stderr({})


def test_the_journal_gets_a_priority_a_line() -> None:
    """Also for each line of a longer text: the journal takes every line for a message of its own."""
    program = (
        "import logging, os\n"
        "from ferryfs.cli import log, options_sources\n"
        "status = os.fstat(2)\n"
        "journal = {'JOURNAL_STREAM': f'{status.st_dev}:{status.st_ino}'}\n"
        "log.set_up(options_sources.load(['--shared-dir=/', '--socket-path=/s'], {}).options, journal)\n"
        "logging.getLogger('ferryfs').error('one\\ntwo')\n"
        "logging.getLogger('ferryfs').info('three')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "<3>one\n<3>two\n<6>three\n"


def test_traceback_names_frames_and_causes_without_source() -> None:
    def inner() -> None:
        raise ValueError("the cause")

    def outer() -> None:
        try:
            inner()
        except ValueError as error:
            raise RuntimeError("the effect") from error

    with pytest.raises(RuntimeError) as caught:
        outer()
    lines = traceback_text(caught.value).splitlines()
    assert lines[-1] == "RuntimeError: the effect"
    assert "ValueError: the cause" in lines
    assert any(line.endswith("in inner") for line in lines)


def test_a_pipe_that_nobody_reads_holds_nobody_up() -> None:
    """A guest fills it with malformed requests; the thread that would wait for its reader answers the front-end."""
    program = (
        "import logging\n"
        "from ferryfs.cli import log, options_sources\n"
        "log.PATIENCE_MS = 1\n"
        "log.set_up(options_sources.load(['--shared-dir=/', '--socket-path=/s'], {}).options, {})\n"
        "for number in range(3000):\n"
        "    logging.getLogger('ferryfs').warning('line %d of some length', number)\n"
        "print(flush=True)\n"
        "input()\n"
        "logging.getLogger('ferryfs').warning('the last')\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert select.select([process.stdout], [], [], 20)[0], "the log waits for a reader"
        held = b""
        while select.select([process.stderr], [], [], 0)[0]:
            held += os.read(process.stderr.fileno(), 1 << 16)
        process.stdin.write(b"\n")
        process.stdin.close()
        rest = process.stderr.read().decode()
    kept = held.decode().splitlines()
    assert all(f"line {number} of" in line for number, line in enumerate(kept))
    assert 0 < len(kept) < 3000
    assert rest.startswith(f"[{3000 - len(kept)} lines were left out: nobody read them]\n")
    assert rest.endswith("the last\n")


def test_a_syslog_that_nobody_reads_holds_nobody_up(tmp_path: Path) -> None:
    """The same of a syslogd that hangs."""
    program = (
        "import logging\n"
        "from ferryfs.cli import log, options_sources\n"
        "log.PATIENCE_MS = 1\n"
        f"log._DEV_LOG = {str(tmp_path / 'log')!r}\n"
        "log.set_up(options_sources.load(['--shared-dir=/', '--socket-path=/s', '--syslog'], {}).options, {})\n"
        "for number in range(3000):\n"
        "    logging.getLogger('ferryfs').warning('line %d of some length', number)\n"
        "print(flush=True)\n"
        "input()\n"
        "logging.getLogger('ferryfs').warning('the last')\n"
    )
    pipe = subprocess.PIPE
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslogd:
        syslogd.bind(str(tmp_path / "log"))
        with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                assert select.select([process.stdout], [], [], 20)[0], "the log waits for a reader"
            except BaseException:
                process.kill()
                raise
            kept = received(syslogd)
            process.stdin.write(b"\n")
            process.stdin.close()
            process.wait()
        rest = received(syslogd)
    assert all(line.endswith(f": line {number} of some length") for number, line in enumerate(kept))
    assert 0 < len(kept) < 3000
    assert [line.partition(": ")[2] for line in rest] == [
        f"[{3000 - len(kept)} lines were left out: nobody read them]",
        "the last",
    ]


def received(syslogd: socket.socket) -> list[str]:
    """The lines that lie there."""
    lines = []
    while select.select([syslogd], [], [], 0)[0]:
        lines.append(syslogd.recv(4096).decode())
    return lines
