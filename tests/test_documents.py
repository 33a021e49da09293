"""The documents say what is so: links lead somewhere, options exist, commands are accepted, quoted errors are ours."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from ferryfs.cli.options import flag, table
from ferryfs.guest.backend import own_daemon

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
    known = {flag(name) for name in table()} | row_words | FOREIGN
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
