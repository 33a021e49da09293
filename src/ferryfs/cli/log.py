"""Where the log goes and what a line looks like: text for people, a priority for the journal, JSON for programs,
syslog.

Nothing here opens a file or imports a module once the log is set up: after the sandbox closes, the file system
belongs to the guest. So a traceback is written from the frames alone, without source lines, and times are UTC.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final

from ferryfs.cli.options import LogFormat, LogLevel, Options

TRACE: Final = 5
"""Below DEBUG: every message and request. Python has no such level of its own."""

LEVELS: Final[dict[LogLevel, int]] = {
    LogLevel.OFF: logging.CRITICAL + 1,
    LogLevel.ERROR: logging.ERROR,
    LogLevel.WARN: logging.WARNING,
    LogLevel.INFO: logging.INFO,
    LogLevel.DEBUG: logging.DEBUG,
    LogLevel.TRACE: TRACE,
}

_NAMES: Final = {
    logging.CRITICAL: "ERROR",
    logging.ERROR: "ERROR",
    logging.WARNING: "WARN ",
    logging.INFO: "INFO ",
    logging.DEBUG: "DEBUG",
    TRACE: "TRACE",
}
# syslog(3): LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG; the journal reads them as <N> in front of a line.
_PRIORITIES: Final = {
    logging.CRITICAL: 3,
    logging.ERROR: 3,
    logging.WARNING: 4,
    logging.INFO: 6,
    logging.DEBUG: 7,
    TRACE: 7,
}
PATIENCE_MS: Final = 1000
"""How long a line waits for a full pipe on stderr to be read."""

_FACILITY_USER: Final = 1 << 3
_PROGRAM: Final = "ferryfsd"
_DEV_LOG: Final = "/dev/log"


def set_up(options: Options, environ: Mapping[str, str]) -> None:
    """Point the logger ``ferryfs`` at what the options say, and every unexpected exception at the logger."""
    logging.addLevelName(TRACE, "TRACE")
    # What logging would otherwise look up for each record.
    logging.logMultiprocessing = False
    logging.raiseExceptions = False
    handler: logging.Handler | None = None
    failure = ""
    if options.syslog:
        try:
            handler = _SyslogHandler()
        except OSError as error:
            failure = f"--syslog: {_DEV_LOG} can't be reached ({error.strerror}), the log goes to stderr"
    level = options.log_level
    if handler is None:
        # As virtiofsd: the variable is about the log on stderr, and there it wins.
        level = rust_log_level(environ.get("RUST_LOG")) or level
        handler = _StderrHandler(options.log_format, journal_reads_stderr(environ))
    logger = logging.getLogger("ferryfs")
    logger.handlers[:] = [handler]
    logger.setLevel(LEVELS[level])
    logger.propagate = False
    sys.excepthook = _log_exception
    threading.excepthook = _log_thread_exception
    sys.unraisablehook = _log_unraisable
    if failure:
        logger.warning(failure)


def rust_log_level(spec: str | None) -> LogLevel | None:
    """The level in a RUST_LOG value such as ``debug`` or ``virtiofsd=trace,vhost=warn``; None when it names none for
    us."""
    found = None
    levels = {level.value: level for level in LogLevel}
    for directive in (spec or "").partition("/")[0].split(","):
        target, equals, level = directive.strip().rpartition("=")
        name = level.lower()
        if name in levels and (not equals or target.strip() in ("virtiofsd", "ferryfs", "ferryfsd")):
            found = levels[name]
    return found


def journal_reads_stderr(environ: Mapping[str, str]) -> bool:
    """systemd connects stderr to the journal and says so by the socket's device and inode number."""
    device, colon, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    if not colon:
        return False
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


def traceback_text(error: BaseException | None) -> str:
    """The frames of an exception, innermost last, without opening any source file."""
    lines: list[str] = []
    while error is not None:
        frames = []
        trace: TracebackType | None = error.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            frames.append(f"  {code.co_filename}:{trace.tb_lineno} in {code.co_name}")
            trace = trace.tb_next
        lines[:0] = [*frames, f"{type(error).__name__}: {error}"]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(lines)


def _message(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info and record.exc_info[1] is not None:
        text += "\n" + traceback_text(record.exc_info[1])
    return text


class _Outlet:
    """A file descriptor from which somebody else reads the log.

    Where nobody does, lines are left out, and counted: a guest that fills it with complaints about its requests would
    else stop the thread that answers the front-end, and with it the machine's monitor.
    """

    def __init__(self, fd: int) -> None:
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._left_out = 0

    def has_room(self) -> bool:
        """Whether some bytes can be written without waiting, after a second's patience."""
        return bool(self._poll.poll(PATIENCE_MS))

    def takes_line(self) -> bool:
        """Whether a line is to be written; else it is left out.

        Whoever reads gets its second once; while it does not, no further line waits for it.
        """
        if self._poll.poll(0) or (not self._left_out and self.has_room()):
            return True
        self._left_out += 1
        return False

    def leave_out(self) -> None:
        """A line was not taken after all."""
        self._left_out += 1

    def excuse(self) -> str:
        """A sentence about the lines that were left out since the last one, or nothing."""
        left_out, self._left_out = self._left_out, 0
        return f"[{left_out} lines were left out: nobody read them]" if left_out else ""


class _StderrHandler(logging.Handler):
    """One write(2) a line, so that lines of several processes don't mix."""

    def __init__(self, style: LogFormat, journal: bool) -> None:
        super().__init__()
        self._outlet = _Outlet(2)
        self._style = style
        self._journal = journal
        # Loaded now; at the first line it would be too late.
        self._encode = None if style is LogFormat.TEXT else _json_encoder()

    def emit(self, record: logging.LogRecord) -> None:
        data = self._line(record).encode("utf-8", "backslashreplace") + b"\n"
        if not self._outlet.takes_line():
            return
        if excuse := self._outlet.excuse():
            data = f"{excuse}\n".encode() + data
        try:
            while data and self._outlet.has_room():
                # So much a pipe that is ready takes without waiting.
                data = data[os.write(2, data[: select.PIPE_BUF]) :]
        except OSError:
            # Whoever read stderr has gone; the daemon lives without a log.
            return

    def _line(self, record: logging.LogRecord) -> str:
        text = _message(record)
        name = _NAMES.get(record.levelno, record.levelname)
        if self._encode is not None:
            stamp = f"{_utc(record.created)}.{int(record.msecs):03d}Z"
            fields = {"time": stamp, "level": name.strip().lower(), "target": record.name, "message": text}
            return self._encode(fields)
        if self._journal:
            return "\n".join(f"<{_PRIORITIES.get(record.levelno, 6)}>{line}" for line in text.split("\n"))
        return f"[{_utc(record.created)}Z {name} {_PROGRAM}] {text}"


class _SyslogHandler(logging.Handler):
    """RFC 3164 datagrams to the local socket; logging.handlers has one too, and imports half the library for it."""

    def __init__(self) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(_DEV_LOG)
        except OSError:
            self._socket.close()
            raise
        self._outlet = _Outlet(self._socket.fileno())

    def emit(self, record: logging.LogRecord) -> None:
        if not self._outlet.takes_line():
            return
        try:
            if excuse := self._outlet.excuse():
                self._send(record, excuse)
            self._send(record, _message(record))
        except BlockingIOError:
            self._outlet.leave_out()
        except OSError:
            # syslogd was restarted or has gone. Connecting again would need the file system that is now the guest's.
            return

    def _send(self, record: logging.LogRecord, message: str) -> None:
        priority = _FACILITY_USER | _PRIORITIES.get(record.levelno, 6)
        when = time.gmtime(record.created)
        # No strftime: %b would ask the locale.
        month = "JanFebMarAprMayJunJulAugSepOctNovDec"[3 * when.tm_mon - 3 : 3 * when.tm_mon]
        stamp = f"{month} {when.tm_mday:2d} {when.tm_hour:02d}:{when.tm_min:02d}:{when.tm_sec:02d}"
        text = f"<{priority}>{stamp} {_PROGRAM}[{os.getpid()}]: {message}"
        self._socket.send(text.encode("utf-8", "backslashreplace"), socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)


def _json_encoder() -> Callable[[Mapping[str, str]], str]:
    import json

    return json.JSONEncoder().encode


def _utc(seconds: float) -> str:
    when = time.gmtime(seconds)
    day = f"{when.tm_year:04d}-{when.tm_mon:02d}-{when.tm_mday:02d}"
    return f"{day}T{when.tm_hour:02d}:{when.tm_min:02d}:{when.tm_sec:02d}"


def _log_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("ferryfs").critical("a bug in ferryfsd, please report it:\n%s", traceback_text(error))


def _log_thread_exception(args: threading.ExceptHookArgs) -> None:
    logging.getLogger("ferryfs").critical("a bug in ferryfsd, please report it:\n%s", traceback_text(args.exc_value))


def _log_unraisable(args: sys.UnraisableHookArgs) -> None:
    logging.getLogger("ferryfs").critical("a bug in ferryfsd, please report it:\n%s", traceback_text(args.exc_value))
