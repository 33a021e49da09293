"""A guest and a front-end that want all that the daemon may have: what is refused is refused to one of them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from daemons import daemons

from ferryfs.guest.backend import own_daemon
from ferryfs.vhost.session import QUEUES_MAX
from ferryfs.wire.fuse import ENTRY_OUT, OPEN_IN, RELEASE_IN, Op
from ferryfs.wire.vhost_user import Request

from .monitor import SIZE, Monitor, served

# So many that the cache of inodes' fds, an eighth of it, is more than the daemon keeps for itself in round figures.
FILES = 4096


def test_a_guest_opens_all_it_may_and_every_ring_gets_its_eventfds(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    for name in ("file", *(f"file{i}" for i in range(FILES // 8))):
        (shared / name).touch()
    options = ["--sandbox=none", "--keep-listening", "--log-level=warn", f"--rlimit-nofile={FILES}"]
    with daemons(tmp_path) as start:
        backend = start(own_daemon(), shared, options)
        with Monitor(backend) as monitor:
            monitor.start()
            nodeid = 0
            for i in range(FILES // 8):
                error, entry = monitor.answer(Op.LOOKUP, 1, f"file{i}\0".encode())
                assert error == 0
                nodeid = ENTRY_OUT.unpack(entry)["nodeid"]
                assert monitor.ask(Op.GETATTR, nodeid) == 0
            opened = 0
            while (error := monitor.ask(Op.OPEN, nodeid, OPEN_IN.pack(flags=os.O_RDWR))) == 0:
                opened += 1
            assert error == errno.ENFILE
            assert FILES // 2 < opened < FILES
            for ring in range(QUEUES_MAX):
                queue = monitor.queues[ring] if ring < len(monitor.queues) else monitor.queues[1]
                if ring >= len(monitor.queues):
                    monitor.client.set_vring_num(ring, SIZE)
                    monitor.client.command(Request.SET_VRING_ADDR, monitor.addr()._replace(ring=ring))
                monitor.client.set_vring_call(ring, queue.call_fd)
                monitor.client.set_vring_err(ring, queue.err_fd)
                monitor.client.set_vring_kick(ring, queue.kick_fd)
            monitor.client.set_mem_table(monitor.ram.regions)
            assert monitor.ask(Op.GETATTR, nodeid) == 0
            assert monitor.ask(Op.RELEASE, nodeid, RELEASE_IN.pack(fh=1)) == 0
            assert monitor.ask(Op.OPEN, nodeid, OPEN_IN.pack(flags=os.O_RDWR)) == 0
        served(backend)
