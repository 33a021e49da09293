"""``ferryfs demo``: a Linux guest uses a directory of this host, and moves; what each side saw, and how long it took.

Each step is checked on the other side than the one that took it, so a demo that ends well also proves that it works. A
guest's step costs about 40 ms more than the command itself under emulation: the agent starts a shell for it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ferryfs.cli.demo_move import Side, move
from ferryfs.errors import FerryError, PeerError
from ferryfs.guest import accelerator
from ferryfs.guest.backend import Backend, own_daemon
from ferryfs.guest.command_line import Machine, Share
from ferryfs.guest.image import Parts, cache_folder, find_parts, initramfs
from ferryfs.guest.machine import Guest

TAG = "ferry"
MOUNT_POINT = "/mnt"
LARGE_MIB = 32
MEMORY_MIB = 256
SAMPLE = {
    "hello.txt": "Hello from the host.\n",
    "notes/monday.txt": "Oil the ropes.\n",
    "notes/tuesday.txt": "Paint the hull.\n",
}


class Story:
    """Prints the steps: seconds since the start, the side that acts, what it does, and what came of it."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @contextlib.contextmanager
    def step(self, side: str, text: str) -> Iterator[list[str]]:
        """One step, timed; what its body appends to the list is shown below it.

        The line is printed when the step has ended: one that fails shows no time.
        """
        shown: list[str] = []
        began = time.monotonic()
        yield shown
        now = time.monotonic()
        took = (now - began) * 1000
        duration = f"{took / 1000:.1f} s" if took >= 1000 else f"{took:.1f} ms"
        print(f"{now - self._start:6.2f} s  {side:5}  {text}  ({duration})")
        for block in shown:
            for line in block.splitlines():
                print(f"{'':17}| {line}")
        sys.stdout.flush()


def _expect(seen: str, wanted: str, where: str) -> None:
    if seen != wanted:
        raise PeerError(f"{where}: {wanted!r} was to be seen, and {seen!r} was.")


def _make_sample(folder: Path) -> None:
    for name, text in SAMPLE.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _sandbox_options() -> list[str]:
    """The daemon's options where the kernel gives an ordinary user, as whom the demo may run, no namespaces."""
    if os.geteuid() == 0:
        return []
    try:
        done = subprocess.run(["unshare", "--user", "true"], stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        return []
    return ["--sandbox=none"] if done.returncode else []


def _guest_command(story: Story, guest: Guest, command: str, *, show: bool = True) -> str:
    with story.step("guest", f"$ {command}") as shown:
        output = guest.check(command)
        if show:
            shown.append(output)
    return output


def _tour(story: Story, guest: Guest, shared: Path) -> None:
    """What the guest does with the share, each step checked on the host."""
    _guest_command(story, guest, f"mount -t virtiofs {TAG} {MOUNT_POINT}")
    listed = _guest_command(story, guest, f"ls -lR {MOUNT_POINT}")
    names = sorted(word for word in listed.split() if word.endswith(".txt"))
    _expect("  ".join(names), "  ".join(sorted(Path(name).name for name in SAMPLE)), f"the guest's {MOUNT_POINT}")
    _expect(_guest_command(story, guest, f"cat {MOUNT_POINT}/hello.txt"), SAMPLE["hello.txt"], "hello.txt in the guest")

    _guest_command(story, guest, f"echo 'Hello from the guest.' >{MOUNT_POINT}/answer.txt")
    with story.step("host", f"reads {shared}/answer.txt") as shown:
        shown.append((shared / "answer.txt").read_text())
    _expect((shared / "answer.txt").read_text(), "Hello from the guest.\n", f"{shared}/answer.txt")

    _guest_command(story, guest, f"mkdir {MOUNT_POINT}/done && mv {MOUNT_POINT}/notes/monday.txt {MOUNT_POINT}/done/")
    with story.step("host", f"lists {shared}") as shown:
        found = sorted(str(path.relative_to(shared)) for path in shared.rglob("*") if path.is_file())
        shown.append("  ".join(found))
    _expect("  ".join(found), "answer.txt  done/monday.txt  hello.txt  notes/tuesday.txt", f"the files in {shared}")

    with story.step("host", f"writes {shared}/late.txt while the guest has it mounted"):
        (shared / "late.txt").write_text("The host is still here.\n")
    _expect(
        _guest_command(story, guest, f"cat {MOUNT_POINT}/late.txt"),
        "The host is still here.\n",
        "late.txt in the guest",
    )

    large = f"dd if=/dev/zero of={MOUNT_POINT}/large bs=1M count={LARGE_MIB} conv=fsync"
    _guest_command(story, guest, large)
    _expect(str((shared / "large").stat().st_size), str(LARGE_MIB << 20), f"the size of {shared}/large")
    _guest_command(story, guest, f"rm {MOUNT_POINT}/large")


def arguments_parser() -> argparse.ArgumentParser:
    """Everything the sub-command takes."""
    parser = argparse.ArgumentParser(
        prog="ferryfs demo",
        description="Boot a Linux guest in QEMU, let it use a directory of this host, and move it to another QEMU.",
    )
    parser.add_argument("--daemon", metavar="COMMAND", help="another vhost-user-fs daemon than this package's ferryfsd")
    parser.add_argument("--daemon-options", metavar="OPTIONS", default="", help="more options for the daemon")
    parser.add_argument("--kernel", type=Path, help="a guest kernel with virtiofs and virtio-pci built in")
    parser.add_argument("--accelerator", choices=("auto", accelerator.KVM, accelerator.TCG), default="auto")
    parser.add_argument(
        "--report", type=Path, metavar="FILE", default=cache_folder() / "demo.html", help="where the report goes"
    )
    return parser


def _run(arguments: argparse.Namespace, folder: Path) -> None:
    story = Story()
    shared = folder / "shared"
    with story.step("host", f"makes a sample directory, {shared}"):
        shared.mkdir()
        _make_sample(shared)
    with story.step("host", "chooses how to run the guest") as shown:
        parts: Parts = find_parts(kernel=arguments.kernel)
        chosen = accelerator.choose(parts) if arguments.accelerator == "auto" else arguments.accelerator
        meaning = (
            "hardware virtualization" if chosen == accelerator.KVM else "emulation; KVM does not boot a guest here"
        )
        shown.append(f"{chosen} ({meaning}), kernel {parts.kernel.name}")
        image = initramfs(parts)

    command = tuple(shlex.split(arguments.daemon)) if arguments.daemon else own_daemon()
    # Only ours has a log with milliseconds, and tells of the phases.
    phases = [] if arguments.daemon else ["--log-format=json"]
    options = [*_sandbox_options(), *phases, *shlex.split(arguments.daemon_options)]

    with contextlib.ExitStack() as running:

        def side(name: str, incoming: str = "") -> Side:
            backend = Backend(command, shared, folder / f"{name}.sock", folder / f"{name}.log", options)
            with story.step("host", f"starts {shlex.join(backend.command)}"):
                running.enter_context(backend)
            shares = (Share(TAG, backend.socket),)
            guest = Guest(Machine(parts.kernel, image, chosen, shares, memory=MEMORY_MIB, incoming=incoming))
            what = "starts a second QEMU, which waits for the guest" if incoming else "boots the guest in QEMU"
            with story.step("host", f"{what} and connects to the daemon's socket") as shown:
                running.enter_context(guest)
                if not incoming:
                    shown.append(f"Linux {guest.check('uname -r').strip()} is up")
            return Side(guest, backend)

        source = side("source")
        _tour(story, source.guest, shared)
        destination = move(
            story.step, source, lambda: side("destination", "defer"), shared, arguments.report.absolute()
        )
        _guest_command(story, destination.guest, f"umount {MOUNT_POINT}")
        with story.step("host", "ends QEMU; the daemon sees its front-end go, and ends by itself") as shown:
            destination.guest.stop()
            status = destination.backend.wait()
            shown.append(f"the daemon's exit status is {status}")
    if status:
        raise PeerError(f"the daemon ended with status {status}: {destination.backend.log_text().strip()}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 0 when every step came out as it should."""
    arguments = arguments_parser().parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="ferryfs-demo-") as name:
        folder = Path(name)
        try:
            _run(arguments, folder)
        except FerryError as error:
            print(f"ferryfs demo: {error}", file=sys.stderr)
            for log in sorted(folder.glob("*.log")):
                if (text := log.read_text(errors="replace").strip()) not in str(error):
                    print(f"The daemon of the {log.stem} said:\n{text}", file=sys.stderr)
            return error.exit_code
    print(f"Every step came out as it should. The migration as a picture: {arguments.report.absolute()}")
    return 0
