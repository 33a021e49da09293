"""The command line of a guest."""

from __future__ import annotations

from pathlib import Path

from ferryfs.guest.command_line import Machine, Share, command_line

PATHS = {"monitor": Path("/run/m"), "agent": Path("/run/a"), "console": Path("/run/c")}


def test_memory_is_shared_and_of_the_machines_size() -> None:
    """Without shared memory of exactly the machine's size QEMU refuses, or the daemon sees nothing."""
    words = command_line(Machine(Path("k"), Path("i"), "tcg", memory=300), **PATHS)
    assert words[words.index("-m") + 1] == "300M"
    assert "memory-backend-memfd,id=mem,size=300M,share=on" in words
    assert "node,memdev=mem" in words


def test_each_share_has_a_device_of_its_own() -> None:
    """Tags, sockets and queues go to the right one; a comma in a path is doubled."""
    shares = (Share("a", Path("/x,y/s"), queues=4, queue_size=256), Share("b", Path("/z")))
    words = command_line(Machine(Path("k"), Path("i"), "kvm", shares), **PATHS)
    assert "socket,id=fs0,path=/x,,y/s" in words
    assert "vhost-user-fs-pci,id=fs0,chardev=fs0,tag=a,num-request-queues=4,queue-size=256" in words
    assert "vhost-user-fs-pci,id=fs1,chardev=fs1,tag=b,num-request-queues=1,queue-size=1024" in words


def test_the_processor_suits_the_accelerator() -> None:
    """Emulation can do without the host's processor, KVM can't; emulated processors take turns in one thread."""
    for accelerator, said, model in (("tcg", "tcg,thread=single", "max"), ("kvm", "kvm", "host")):
        words = command_line(Machine(Path("k"), Path("i"), accelerator), **PATHS)
        assert words[words.index("-accel") + 1] == said
        assert words[words.index("-cpu") + 1] == model


def test_incoming_is_passed_on() -> None:
    """A guest that waits for a migration."""
    words = command_line(Machine(Path("k"), Path("i"), "tcg", incoming="unix:/x"), **PATHS)
    assert words[words.index("-incoming") + 1] == "unix:/x"
