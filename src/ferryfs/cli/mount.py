"""``ferryfs mount``: mount what a vhost-user-fs daemon shares on a directory of this machine."""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from ferryfs.cli.background import run_in_background
from ferryfs.errors import OptionError
from ferryfs.frontend import kernel
from ferryfs.frontend.client import VhostUserClient
from ferryfs.frontend.control import control_path
from ferryfs.frontend.daemon_process import DaemonProcess
from ferryfs.frontend.migrate import Mover, restore
from ferryfs.frontend.mount import Mount, MountOptions

SUMMARY = "mount what a vhost-user-fs daemon shares on a directory of this machine, without a virtual machine"


def arguments_parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    made = argparse.ArgumentParser(prog="ferryfs mount", description=SUMMARY[0].upper() + SUMMARY[1:] + ".")
    made.add_argument("socket", metavar="SOCKET", help="the daemon's vhost-user socket")
    made.add_argument("mountpoint", metavar="MOUNTPOINT", help="an existing directory (or file, for a shared file)")
    made.add_argument("--queues", type=int, default=1, metavar="N", help="request queues, 1 to 64 (default 1)")
    made.add_argument(
        "--queue-size", type=int, default=128, metavar="N", help="entries of each queue, a power of two (default 128)"
    )
    made.add_argument(
        "--in-flight", type=int, default=64, metavar="N", help="requests in flight in all queues (default 64)"
    )
    made.add_argument("--foreground", "-f", action="store_true", help="stay; Ctrl-C unmounts")
    made.add_argument("--daemon", metavar="COMMAND", help="start this daemon for the mount, end it with the mount")
    made.add_argument(
        "--restore", type=Path, metavar="FILE", help="give the daemon the state that `ferryfs save` wrote to FILE"
    )
    made.add_argument("--tag", help="name shown as the mount's source (default: SOCKET)")
    made.add_argument(
        "-o",
        dest="options",
        action="append",
        default=[],
        metavar="OPTION",
        help="mount option: ro, nosuid, nodev, noexec, noatime",
    )
    made.add_argument("--cpu-time", action="store_true", help="at the end, say how much CPU time mount and daemon took")
    return made


def _options(arguments: argparse.Namespace) -> MountOptions:
    if not 1 <= arguments.queues <= 64:
        raise OptionError(f"--queues={arguments.queues} can't be: it is 1 to 64.")
    size = arguments.queue_size
    if not 4 <= size <= 32768 or size & (size - 1):
        raise OptionError(f"--queue-size={size} can't be: it is a power of two from 4 to 32768.")
    if not 2 <= arguments.in_flight <= 4096:
        raise OptionError(f"--in-flight={arguments.in_flight} can't be: it is 2 to 4096.")
    flags = 0
    for word in ",".join(arguments.options).split(","):
        if word and word not in kernel.MOUNT_FLAGS:
            raise OptionError(f"-o {word} is not known: there are {', '.join(kernel.MOUNT_FLAGS)}.")
        flags |= kernel.MOUNT_FLAGS.get(word, 0)
    return MountOptions(
        mountpoint=kernel.check_mountpoint(arguments.mountpoint),
        source=arguments.tag or arguments.socket,
        queues=arguments.queues,
        queue_size=size,
        slots=arguments.in_flight,
        flags=flags,
    )


def main(argv: Sequence[str]) -> int:
    """Mounts. In the background it returns once the mount can be used; with ``--foreground`` when it is gone."""
    arguments = arguments_parser().parse_args(argv)
    options = _options(arguments)
    os.close(kernel.open_device())
    arguments.socket = os.path.abspath(arguments.socket)
    if arguments.restore is not None:
        arguments.restore = arguments.restore.absolute()
    if arguments.foreground:
        _serve(arguments, options, sys.stderr, lambda: _say_mounted(options))
        return 0
    return run_in_background(
        lambda log, on_ready: _serve(arguments, options, log, on_ready), log_path(options.mountpoint)
    )


def _say_mounted(options: MountOptions) -> None:
    print(f"ferryfs mount: {options.source} is mounted on {options.mountpoint}.", file=sys.stderr, flush=True)


def log_path(mountpoint: str) -> Path:
    """Where a mount in the background writes what the operator should read; it stays only after a failure."""
    return control_path(mountpoint).with_suffix(".log")


def _serve(arguments: argparse.Namespace, options: MountOptions, log: IO[str], on_ready: Callable[[], None]) -> None:
    with contextlib.ExitStack() as stack:
        daemon = None
        if arguments.daemon is not None:
            daemon = DaemonProcess(arguments.daemon, arguments.socket, log)
            stack.callback(_say_cpu_time, arguments, log)
            stack.callback(daemon.end)
            client = daemon.connect()
        else:
            client = VhostUserClient.connect(arguments.socket)
            stack.callback(_say_cpu_time, arguments, log)
        stack.callback(client.close)
        mount = Mount(options, client, log, daemon)
        stack.callback(mount.close)
        init_answer = b""
        if arguments.restore is not None:
            init_answer = restore(client, arguments.restore)
        Mover(mount).install()
        mount.start(init_answer)
        mount.run(on_ready)


def _say_cpu_time(arguments: argparse.Namespace, log: IO[str]) -> None:
    if not arguments.cpu_time:
        return
    own = resource.getrusage(resource.RUSAGE_SELF)
    log.write(f"ferryfs mount: CPU time of the mount: {own.ru_utime:.2f} s user, {own.ru_stime:.2f} s system.\n")
    if arguments.daemon is not None:
        child = resource.getrusage(resource.RUSAGE_CHILDREN)
        log.write(
            f"ferryfs mount: CPU time of the daemon: {child.ru_utime:.2f} s user, {child.ru_stime:.2f} s system.\n"
        )
