"""The options of the reference daemons, by their own --help: each is taken by ferryfsd, with its values and default."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

import pytest

from ferryfs.cli.options import Options, Row, flag, table
from ferryfs.cli.options_sources import load
from ferryfs.cli.options_text import default_text

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
