"""A daemon of its own process around the real device: no sandbox, no options, the vhost package alone."""

import subprocess
import sys
from pathlib import Path

from ferryfs.vhost.serve import READY_LINE

LIMIT_SECONDS = 20

DAEMON = """
import logging, os, sys
from ferryfs.engine.device import Device
from ferryfs.errors import FerryError
from ferryfs.passthrough.config import ShareConfig
from ferryfs.vhost import serve
from ferryfs.vhost.device import DeviceControl
from ferryfs.vhost.session import Session

path, share, keep = sys.argv[1:]
logging.basicConfig(level=logging.INFO, format="%(message)s")
root = os.open(share, os.O_PATH | os.O_DIRECTORY)
proc = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY)
listener, _ = serve.listen(path)
with serve.EndSignals() as stop:
    try:
        serve.serve(
            listener,
            lambda: (Session(3), DeviceControl(Device(ShareConfig(), root, proc, 3))),
            stop.fileno(),
            keep_listening=keep == "keep",
        )
    except FerryError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
print("threads", len(os.listdir("/proc/self/task")), "descriptors", len(os.listdir("/proc/self/fd")), file=sys.stderr)
"""


class Daemon:
    def __init__(self, path: Path, share: Path, keep: bool) -> None:
        self.path = path
        self.process = subprocess.Popen(
            [sys.executable, "-c", DAEMON, str(path), str(share), "keep" if keep else "once"],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self.stderr = self.process.stderr
        first = self.stderr.readline()
        assert first == READY_LINE + "\n", first + self.stderr.read()

    def wait(self) -> tuple[int, str]:
        """Exit status and everything said after the ready line."""
        _, said = self.process.communicate(timeout=LIMIT_SECONDS)
        return self.process.returncode, said

    def clean_end(self) -> str:
        """What it said, having ended with status 0 and nothing left of the connections."""
        status, said = self.wait()
        assert status == 0, said
        *lines, last = said.splitlines()
        # The main thread; stdin, stdout, stderr, share, /proc/self/fd, the lock of the pid file, the eventfd of lost
        # guest memory, the listing itself.
        assert last == "threads 1 descriptors 8"
        return "\n".join(lines)
