"""The options of the reference daemons, by their own --help: each is taken by ferryfsd, with its values and default."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from ferryfs.cli import options_rules
from ferryfs.cli.options import Options, Row, flag, table
from ferryfs.cli.options_legacy import known_parts
from ferryfs.cli.options_sources import load
from ferryfs.cli.options_text import default_text
from ferryfs.errors import OptionError
from ferryfs.guest.backend import own_daemon

from .peer import VERSIONS, binary

SHORT = {"-o": "compat_options", "-d": "compat_debug", "-f": "compat_foreground"}
# What the help says in words.
SAID = {"--announce-submounts": True, "--no-killpriv-v2": False}


@dataclass(frozen=True)
class Given:
    """One option as --help has it."""

    name: str
    value: str
    text: str

    @property
    def values(self) -> list[str]:
        """The words that it takes, where the help lists them."""
        found = re.search(r"<([a-z-]+(?:\|[a-z-]+)+)>", self.value) or re.search(
            r"\(([a-z-]+(?:, [a-z-]+)+)\)", self.text
        )
        if found:
            return re.split(r"\||, ", found[1])
        return re.findall(r"^ +- ([a-z-]+):", self.text, re.MULTILINE)


def options_of(version: str) -> list[Given]:
    path = binary(version)
    if path is None:
        pytest.skip(f"virtiofsd {version} is not here: scripts/peers fetches it")
    text = subprocess.run([path, "--help"], capture_output=True, text=True, check=True).stdout.partition("Options:")[2]
    blocks = re.split(r"^ {2,6}(?=-)", text, flags=re.MULTILINE)[1:]
    heads = [re.match(r"(?:-\w, )?(--?[A-Za-z0-9-]+)(.*)", block) for block in blocks]
    return [Given(head[1], head[2], block) for head, block in zip(heads, blocks, strict=True) if head]


def rows() -> dict[str, tuple[str, Row]]:
    """Field and row of everything that our command line takes."""
    known = {}
    for name, row in table().items():
        for word in (flag(name), row.on, row.off, *(short for short, field in SHORT.items() if field == name)):
            if word:
                known[word] = name, row
    return known


@pytest.mark.parametrize("version", VERSIONS)
def test_each_is_ours_too(version: str) -> None:
    given = options_of(version)
    assert len(given) > 40
    known = rows()
    assert [option.name for option in given if option.name not in known] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_each_value_is_taken(version: str) -> None:
    listed = 0
    for option in options_of(version):
        for value in option.values:
            for words in ([f"{option.name}={value}"], [option.name, value]):
                if len(words) == 1 or "[=" not in option.value:
                    load(words, {})
                    listed += 1
    assert listed > 40


def test_each_default_is_the_newest_ones() -> None:
    known = rows()
    compared = 0
    for option in options_of(VERSIONS[-1]):
        name, row = known[option.name]
        default = re.search(r"\[default: ([a-z0-9-]+)\]", option.text)
        if default and row.parse is not None and not row.default_text:
            assert default_text(name, row) == default[1], option.name
            compared += 1
        elif "[default]" in option.text:
            assert getattr(Options(), name) is SAID[option.name]
            compared += 1
    assert compared > 8


# A part of -o each, as a first virtiofsd had it or not.
VALUES = {
    "source": ["/x"],
    "modcaps": ["+chown"],
    "xattrmap": [":ok:all:::"],
    "cache": ["auto", "always", "none", "metadata", "never"],
    "loglevel": ["debug", "info", "warn", "err", "error", "trace"],
    "sandbox": ["namespace", "chroot", "none"],
}
WORDS = [part for part in known_parts() if not part.endswith("=")]
PARTS = [f"{name}={value}" for name, values in VALUES.items() for value in values] + WORDS
PARTS += ["no_announce_submounts", "timeout=3", "debug", "inode_file_handles=never", "fsname=x"]
# What ours takes with a warning, because locks stay in the guest in any case.
MORE = ("flock", "posix_lock")


def refused_by(version: str, folder: Path, *words: str) -> bool:
    """Whether a reference daemon refuses the words; else it gets as far as the directory, which is not there."""
    path = binary(version)
    if path is None:
        pytest.skip(f"virtiofsd {version} is not here: scripts/peers fetches it")
    command = [path, f"--shared-dir={folder / 'nowhere'}", f"--socket-path={folder / 'socket'}", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode != 0
    return "does not exist" not in done.stderr


def refused_by_ours(*words: str) -> bool:
    try:
        options_rules.check(load(["--shared-dir=/srv", "--socket-path=/s", *words], {}).options, 0)
    except OptionError:
        return True
    return False


@pytest.mark.parametrize("part", PARTS)
def test_parts_of_the_old_form(part: str, tmp_path: Path) -> None:
    assert set(VALUES) == {known.rstrip("=") for known in known_parts() if known.endswith("=")}
    refused = refused_by(VERSIONS[-1], tmp_path, "-o", part)
    assert refused_by_ours("-o", part) == (refused and part not in MORE)


@pytest.mark.parametrize(
    "words",
    [
        ["--fd=3"],
        ["--xattr=1"],
        ["--posix-acl", "auto"],
        ["--tag="],
        ["--thread-pool-size=-1"],
        ["--thread-pool-size=2000"],
        [f"--thread-pool-size={2**64 - 1}"],
        [f"--thread-pool-size={2**64}"],
        ["--"],
        ["--", "extra"],
        ["-f=1"],
        ["-o", ""],
        ["-o", "xattr,"],
        ["--translate-uid=map:0:0"],
        ["--xattrmap=foo"],
        ["--cache=Always"],
        ["--log-level=DEBUG"],
        ["--readonly", "--readonly"],
        ["--cache=auto", "--cache=never"],
        ["--killpriv-v2", "--no-killpriv-v2"],
        ["--announce-submounts", "--no-announce-submounts"],
    ],
    ids=" ".join,
)
def test_words_that_one_refuses_the_other_refuses(words: list[str], tmp_path: Path) -> None:
    assert refused_by_ours(*words) == refused_by(VERSIONS[-1], tmp_path, *words)


@pytest.mark.parametrize(
    "words",
    [
        ["--posix-acl=auto", "--translate-uid=map:0:0:1"],
        ["--translate-uid=map:0:0:9", "--translate-uid=guest:8:0:1"],
        ["--migration-mode=file-handles", "--migration-confirm-paths"],
        ["--migration-mode=file-handles", "--migration-verify-handles"],
        ["--inode-file-handles=mandatory", "--modcaps=-dac_read_search"],
    ],
    ids=" ".join,
)
def test_options_that_exclude_each_other(words: list[str], tmp_path: Path) -> None:
    """virtiofsd finds these when it starts to serve a directory that is there."""
    (tmp_path / "nowhere").mkdir()
    assert refused_by(VERSIONS[-1], tmp_path, *words)
    assert refused_by_ours(*words)


@pytest.mark.parametrize(
    "words",
    [
        ["--version", "--foo"],
        ["--foo", "--version"],
        ["--help", "--cache=foo", "extra"],
        ["--cache=foo", "--help"],
        ["-fV", "--socket-path"],
        ["--socket-path", "-V"],
        ["--print-capabilities", "--foo"],
        ["--print-capabilities", "--cache=foo"],
        ["--print-capabilities", "--socket-group=kvm"],
        ["--socket-path=s", "--shared-dir=/nowhere", "--print-capabilities"],
    ],
    ids=" ".join,
)
def test_what_only_prints(words: list[str]) -> None:
    path = binary(VERSIONS[-1])
    if path is None:
        pytest.skip(f"virtiofsd {VERSIONS[-1]} is not here: scripts/peers fetches it")
    theirs, ours = (
        subprocess.run([program, *words], capture_output=True, text=True, check=False, timeout=30)
        for program in (path, own_daemon()[0])
    )
    assert (ours.returncode, bool(ours.stdout)) == (theirs.returncode, bool(theirs.stdout))
