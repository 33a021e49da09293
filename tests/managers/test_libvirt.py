"""A real libvirt starts ferryfsd, or is given its socket: use, save, restore, migrate to another libvirt."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import StartDaemon, complaints

from ferryfs.guest.agent import Agent
from ferryfs.guest.backend import own_daemon
from ferryfs.guest.image import find_parts
from managers.libvirt import Libvirt, domain, needs_libvirt
from managers.libvirt_hosts import Host, needs_libvirtd
from managers.starting import short_folder

pytestmark = needs_libvirt

# Holds a file open for writing, in append mode, until it is told to go on.
WRITER = (
    "mount -t virtiofs ferry /mnt; "
    "sh -c 'exec 9>>/mnt/open; echo before >&9; rm /mnt/nameless; until [ -e /mnt/go ]; do sleep 1; done; "
    "echo after >&9; cat <&8 > /mnt/copy' 8</mnt/nameless"
)


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


@pytest.fixture
def share(folder: Path) -> Path:
    made = folder / "share"
    made.mkdir()
    (made / "nameless").write_text("its name is gone\n")
    return made


def test_saved_and_restored_with_files_open(share: Path, folder: Path) -> None:
    """virsh save ends the daemon that libvirt started; virsh restore starts another one."""
    binary = f'<binary path="{own_daemon()[0]}" xattr="on"/><source dir="{share}"/>'
    (folder / "domain.xml").write_text(domain(find_parts(), binary, folder / "agent"))
    saved = folder / "saved"
    with Libvirt(folder) as libvirt:
        libvirt.command(f"define {folder / 'domain.xml'}", "defined from")
        libvirt.command("start ferry", "started")
        with Agent(folder / "agent") as agent:
            agent.wait_ready()
            agent.start(WRITER)
            agent.check("until [ -s /mnt/open ] && [ ! -e /mnt/nameless ]; do sleep 0.1; done", 30)
            libvirt.command(f"save ferry {saved}", "saved to")
        assert (share / "open").read_text() == "before\n"
        seen = subprocess.run(
            [sys.executable, "-m", "ferryfs.cli.tool", "inspect", "--json", saved],
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(seen.stdout)
        # Not before somebody holds its port does the guest run, see ``libvirt_hosts``.
        libvirt.command(f"restore --paused {saved}", "restored from")
        (share / "go").touch()
        with Agent(folder / "agent") as agent:
            libvirt.command("resume ferry", "resumed")
            agent.check("until [ -s /mnt/copy ]; do sleep 0.1; done", 30)
        assert (share / "open").read_text() == "before\nafter\n"
        assert (share / "copy").read_text() == "its name is gone\n"
        libvirt.command("destroy ferry", "destroyed")
        assert "Waiting for vhost-user socket connection" in libvirt.daemon_log()
        assert complaints(libvirt.daemon_log()) == []


def test_given_the_socket_of_a_daemon(share: Path, folder: Path, start_daemon: StartDaemon) -> None:
    """<source socket=…/>: the daemon is somebody else's."""
    backend = start_daemon(own_daemon(), share, socket=folder / "s")
    (folder / "domain.xml").write_text(domain(find_parts(), f'<source socket="{folder / "s"}"/>', folder / "agent"))
    with Libvirt(folder) as libvirt:
        libvirt.command(f"create {folder / 'domain.xml'}", "created from")
        with Agent(folder / "agent") as agent:
            agent.wait_ready()
            agent.check("mount -t virtiofs ferry /mnt && cp /mnt/nameless /mnt/copy")
        assert (share / "copy").read_text() == "its name is gone\n"
        libvirt.command("destroy ferry", "destroyed")
        assert backend.wait() == 0


@needs_libvirtd
def test_migrated_to_another_libvirt_with_files_open(share: Path, folder: Path) -> None:
    """virsh migrate --live: each libvirt starts a ferryfsd of its own; the guest goes on writing without noticing."""
    binary = f'<binary path="{own_daemon()[0]}" xattr="on"/><source dir="{share}"/>'
    (folder / "domain.xml").write_text(domain(find_parts(), binary))
    with Host(folder / "a") as source, Host(folder / "b") as destination:
        source.command("create", str(folder / "domain.xml"))
        with Agent(source.port()) as agent:
            agent.wait_ready()
            agent.start(WRITER)
            agent.check("until [ -s /mnt/open ] && [ ! -e /mnt/nameless ]; do sleep 0.1; done", 30)
            moving = source.begin("migrate", "--live", "ferry", destination.uri, "--migrateuri", f"unix://{folder}/m")
            with Agent(destination.port()) as moved:
                source.finish(moving)
                assert (share / "open").read_text() == "before\n"
                (share / "go").touch()
                moved.check("until [ -s /mnt/copy ]; do sleep 0.1; done", 30)
        assert (share / "open").read_text() == "before\nafter\n"
        assert (share / "copy").read_text() == "its name is gone\n"
        assert "ferry" not in source.command("list", "--name", "--all")
        destination.destroy()
        for host in (source, destination):
            assert "Waiting for vhost-user socket connection" in host.daemon_log()
            assert complaints(host.daemon_log()) == []
