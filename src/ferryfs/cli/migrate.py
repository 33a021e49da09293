"""``ferryfs migrate`` and ``ferryfs save``: what a running ``ferryfs mount`` does on request."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

from ferryfs.errors import CancelledError
from ferryfs.frontend.control import ask

_DOWNTIME_FROM: Final = ("drain", "pause")


def _parser(prog: str, description: str, last: str, last_help: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", help="where `ferryfs mount` mounted")
    parser.add_argument("target", metavar=last, help=last_help)
    parser.add_argument("--no-drain", action="store_true", help="leave requests in flight in the rings, as QEMU does")
    parser.add_argument(
        "--collect", type=float, default=0.5, metavar="SECONDS", help="time for the daemon to prepare (default 0.5)"
    )
    parser.add_argument("--json", action="store_true", help="print the phases for programs")
    return parser


def _run(arguments: argparse.Namespace, command: str, **more: object) -> int:
    common = {"drain": not arguments.no_drain, "collect_s": arguments.collect}
    interrupted: list[bool] = []
    try:
        answer = ask(arguments.mountpoint, command, {**common, **more}, on_interrupt=lambda: interrupted.append(True))
    except KeyboardInterrupt:
        raise CancelledError("It may be too late to cancel, and is not waited for: it goes on.") from None
    print(json.dumps(answer) if arguments.json else report(answer))
    if interrupted:
        print(f"ferryfs {command}: It was too late to cancel: it is done.", file=sys.stderr)
    return 0


def report(answer: dict[str, Any]) -> str:
    """The phases as a table, the downtime under it: from the pause to the last phase."""
    lines = []
    downtime = 0.0
    stopped = False
    for name, seconds in answer["phases"]:
        stopped = (stopped or name in _DOWNTIME_FROM) and name != "write"
        downtime += seconds if stopped else 0.0
        lines.append(f"{name:<14}{seconds * 1000:10.1f} ms")
    lines.append(f"{'downtime':<14}{downtime * 1000:10.1f} ms   state of {answer['bytes']} bytes")
    if answer.get("kicked"):
        lines.append("The destination served nothing until it was kicked; a virtual machine's monitor would not have.")
    return "\n".join(lines)


def migrate_parser() -> argparse.ArgumentParser:
    """The arguments of ``ferryfs migrate``."""
    return _parser(
        "ferryfs migrate",
        "Move a mount made by `ferryfs mount` from its daemon to another one, without unmounting.",
        "DEST-SOCKET",
        "socket of the daemon that takes over",
    )


def migrate_main(argv: Sequence[str]) -> int:
    """Moves a mount to another daemon."""
    arguments = migrate_parser().parse_args(argv)
    return _run(arguments, "migrate", destination=os.path.abspath(arguments.target))


def save_parser() -> argparse.ArgumentParser:
    """The arguments of ``ferryfs save``."""
    return _parser(
        "ferryfs save",
        "Write the device state of a mount made by `ferryfs mount` to a file; `ferryfs mount --restore` loads it.",
        "FILE",
        "file for the state (FILE.mount holds what the kernel negotiated)",
    )


def save_main(argv: Sequence[str]) -> int:
    """Saves a mount's device state; it goes on being served."""
    arguments = save_parser().parse_args(argv)
    return _run(arguments, "save", file=os.path.abspath(arguments.target))
