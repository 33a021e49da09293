"""The QEMU command line of a guest with virtio-fs shares, from plain data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ferryfs.guest.image import PORT_NAME

PROGRAM = "qemu-system-x86_64"
# Without no_timer_check the kernel waits for ten timer interrupts within a time of its own, which does not come under
# emulation when the host is busy, and panics.
KERNEL_ARGUMENTS = "console=ttyS0 quiet panic=-1 no_timer_check"
# One thread for all processors of an emulated guest. With a thread each, one boot in some dozens went wrong with
# QEMU 10.0: a processor got no timer interrupts any more, or QEMU ended of a write past the end of an MSI-X table.
# On two processors of the host one thread takes less of them, too (4.4 s instead of 4.9 s for a boot).
ACCELERATORS = {"tcg": "tcg,thread=single"}
# virtiofsd's and libvirt's usual size; QEMU's own default is 128.
QUEUE_SIZE = 1024


@dataclass(frozen=True, slots=True)
class Share:
    """One vhost-user-fs device: the tag that the guest mounts, and the socket of the daemon that serves it.

    The device of a machine's N-th share, from 0, is called fsN.
    ``queues`` is the number of request queues; the high-priority queue comes on top.
    """

    tag: str
    socket: Path
    queues: int = 1
    queue_size: int = QUEUE_SIZE


@dataclass(frozen=True, slots=True)
class Machine:
    """A guest as it is to be. ``accelerator`` is kvm or tcg; ``memory`` is in MiB.

    ``incoming`` makes QEMU wait for a migration (docs: ``-incoming``). ``kernel_arguments`` and ``extra`` are appended.
    """

    kernel: Path
    initramfs: Path
    accelerator: str
    shares: tuple[Share, ...] = ()
    cpus: int = 2
    memory: int = 512
    incoming: str = ""
    kernel_arguments: str = ""
    extra: tuple[str, ...] = ()


def escape(value: object) -> str:
    """A value inside a QEMU option: a comma ends it, so a comma of the value is doubled."""
    return str(value).replace(",", ",,")


def command_line(machine: Machine, *, monitor: Path, agent: Path, console: Path) -> list[str]:
    """The whole command; ``monitor`` and ``agent`` are sockets that QEMU makes, ``console`` is a file it writes."""
    model = "host" if machine.accelerator == "kvm" else "max"
    accelerator = ACCELERATORS.get(machine.accelerator, machine.accelerator)
    words = [
        *(PROGRAM, "-nodefaults", "-no-user-config", "-display", "none"),
        *("-machine", "q35", "-accel", accelerator, "-cpu", model, "-smp", str(machine.cpus)),
        # The daemon maps the guest's memory, so it has to be shareable: virtio-fs does not work with any other.
        *("-m", f"{machine.memory}M", "-numa", "node,memdev=mem"),
        *("-object", f"memory-backend-memfd,id=mem,size={machine.memory}M,share=on"),
        *("-kernel", str(machine.kernel), "-initrd", str(machine.initramfs)),
        *("-append", f"{KERNEL_ARGUMENTS} {machine.kernel_arguments}".strip()),
        *("-chardev", f"file,id=console,path={escape(console)}", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=monitor,path={escape(monitor)},server=on,wait=off", "-mon", "monitor,mode=control"),
        *("-device", "virtio-serial-pci"),
        *("-chardev", f"socket,id=agent,path={escape(agent)},server=on,wait=off"),
        *("-device", f"virtserialport,chardev=agent,name={PORT_NAME}"),
    ]
    for number, share in enumerate(machine.shares):
        device = [
            f"vhost-user-fs-pci,id=fs{number},chardev=fs{number},tag={escape(share.tag)}",
            f"num-request-queues={share.queues},queue-size={share.queue_size}",
        ]
        words += ["-chardev", f"socket,id=fs{number},path={escape(share.socket)}", "-device", ",".join(device)]
    if machine.incoming:
        words += ["-incoming", machine.incoming]
    return [*words, *machine.extra]
