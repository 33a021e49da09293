"""The documents say what is so: links lead somewhere, options exist, commands are accepted, quoted errors are ours."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from namespaces import needs_mounts, with_mounts

from ferryfs.cli.options import flag, key_of, table
from ferryfs.guest.backend import READY, own_daemon

TOP = Path(__file__).parents[1]
DOCS = TOP / "docs"
GUIDES = [DOCS / name for name in ("guide.md", "migration.md", "from-virtiofsd.md")]
# Words of other programs: ferryfs itself, cloud-hypervisor, virsh.
FOREIGN = {"--daemon", "--memory", "--fs", "--live"}


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [TOP / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        there = (page.parent / path) if path else page
        assert there.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(there), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_options_exist(page: Path) -> None:
    row_words = {word for row in table().values() for word in (row.on, row.off) if word}
    opposites = {f"--no-{key_of(name)}" for name, row in table().items() if row.has_opposite()}
    known = {flag(name) for name in table()} | row_words | opposites | FOREIGN
    # A word that ends in "-" stands for several options.
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", page.read_text()))
    assert {word for word in named - known if not word.endswith("-")} == set()


def commands() -> list[str]:
    """Every command line of ferryfsd in the user guide."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", (DOCS / "guide.md").read_text(), re.DOTALL):
        joined = block.replace("\\\n", " ")
        found += [line.rstrip(" &") for line in joined.splitlines() if line.startswith("ferryfsd ")]
    return found


@pytest.mark.parametrize("command", commands())
def test_commands_are_accepted(command: str) -> None:
    """As the shell would run them, only that ferryfsd shows what it understood."""
    line = f"exec {own_daemon()[0]}{command.removeprefix('ferryfsd')} --show-config"
    environment = {**os.environ, "HOME": "/home/somebody", "XDG_RUNTIME_DIR": "/run/user/1000"}
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "shared-dir" in done.stdout


# As the documents have it: directories to share, and places for sockets; nothing of it is seen outside.
PLACES = """
for place in /srv /run /mnt /home; do mount -t tmpfs none $place; done
mkdir -p /srv/share /srv/a /srv/b /run/user/1000 /home/somebody/share
echo here >/srv/share/file
"""
SETTING = f"""
import re, select, subprocess
os.environ.update(HOME="/home/somebody", XDG_RUNTIME_DIR="/run/user/1000")
os.environ["PATH"] = {str(Path(own_daemon()[0]).parent)!r} + os.pathsep + os.environ["PATH"]
READY = {READY!r}
"""
# An ordinary user for whom nothing is prepared.
ORDINARY = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "setpriv", "--no-new-privs")
SERVE = """
said = []
with subprocess.Popen([*PREFIX, "sh", "-c", "exec " + LINE], stderr=subprocess.PIPE, text=True) as daemon:
    for line in daemon.stderr:
        said.append(line)
        if READY in line:
            daemon.terminate()
show([daemon.returncode, said])
"""


def own_options() -> list[str]:
    """What the guide shows without the command that it is added to."""
    blocks = re.findall(r"```sh\n(--.*?)\n```", (DOCS / "guide.md").read_text(), re.DOTALL)
    # Ranges of subordinate ids need a file of the host: tests/interop/test_subordinate_ids.py has them.
    return [
        f"ferryfsd --socket-path=/run/ferry.sock --shared-dir=/srv/share {block}"
        for block in blocks
        if "--uid-map" not in block
    ]


@needs_mounts("setpriv")
@pytest.mark.parametrize("command", [*commands(), *own_options()])
def test_daemons_of_the_guide_serve(command: str, tmp_path: Path) -> None:
    """Each command as it stands there, until the line that says that it listens."""
    ordinary = "$HOME" in command
    code = f"{SETTING}\nPREFIX = {list(ORDINARY) if ordinary else []!r}\nLINE = {command!r}\n{SERVE}"
    status, said = with_mounts(tmp_path, PLACES, code)
    assert status == 0, said
    assert [line for line in said if " WARN " in line or " ERROR " in line] == []


# Lines that end in & and mounts in the foreground go on beside the others, and the next one waits until they are ready.
SESSION = """
beside = []
output = []
for line in LINES:
    if line.endswith("&") or "--foreground" in line:
        process = subprocess.Popen(
            ["sh", "-c", "exec " + line.rstrip("& ")], stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
        )
        beside.append(process)
        if "--foreground" in line:
            ended = os.pidfd_open(process.pid)
            while not os.path.ismount("/mnt") and not select.select([ended], [], [], 0.01)[0]:
                pass
        else:
            while READY not in process.stderr.readline():
                assert process.poll() is None, line
        continue
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, (line, done.stderr)
    output.append([line, done.stdout, os.listdir("/mnt")])
subprocess.run(["umount", "/mnt"], check=True)
statuses = [process.wait(30) for process in beside]
for process in beside:
    process.stderr.close()
show([output, statuses])
"""


@needs_mounts()
@pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="there is no /dev/fuse here: modprobe fuse")
def test_the_page_about_mounts_is_a_session(tmp_path: Path) -> None:
    """All its commands one after the other, as root types them."""
    blocks = re.findall(r"```console\n(.*?)```", (DOCS / "mount.md").read_text(), re.DOTALL)
    lines = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("# ")]
    output, statuses = with_mounts(tmp_path, PLACES, f"{SETTING}\nLINES = {lines!r}\n{SESSION}")
    seen = {line.split()[1]: (said, names) for line, said, names in output}
    assert seen["mount"][1] == ["file"]
    assert seen["/mnt"][1] == []
    said, names = seen["migrate"]
    assert names == ["file"]
    shown = [line.split()[0] for line in blocks[-1].splitlines() if not line.startswith("#")]
    assert [line.split()[0] for line in said.splitlines()] == shown
    assert statuses == [0] * len(statuses)


def guide_errors() -> list[str]:
    """What the user guide quotes of ours."""
    _, _, after = (DOCS / "guide.md").read_text().partition("| what it says |")
    return re.findall(r"^\| `([^`]+)` \|", after, re.MULTILINE)


@pytest.mark.parametrize("error", guide_errors())
def test_errors_in_the_guide_are_in_the_code(error: str) -> None:
    code = "\n".join(path.read_text() for path in sorted((TOP / "src/ferryfs").rglob("*.py")))
    # A string over two lines of code is one.
    assert error in re.sub(r'"\s*\n\s*f?"', "", code)


def quoted_errors() -> list[str]:
    """The first column of the table of errors."""
    _, _, after = (DOCS / "migration.md").read_text().partition("## Errors")
    rows = after.partition("\n## ")[0].splitlines()
    cells = [row.split("|")[1] for row in rows if row.startswith("| `")]
    return [text for cell in cells for text in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.parametrize("error", quoted_errors())
def test_quoted_errors_are_in_the_code(error: str) -> None:
    code = "\n".join(path.read_text() for path in sorted((TOP / "src/ferryfs/migration").rglob("*.py*")))
    # A string over two lines of code is one.
    code = re.sub(r'"\s*\n\s*f?"', "", code)
    fixed = max(re.split(r"…|'NAME'|\b[NMX]\b|\(", error), key=len).strip()
    assert fixed in code
