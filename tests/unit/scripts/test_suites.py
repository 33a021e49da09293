"""Reading a machine's apt sources, in both formats, and deriving others from them."""

from __future__ import annotations

from pathlib import Path

import pytest
from suites import NotHere, Source, derive, machine_sources

DEB822 = """\
Types: deb deb-src
# a comment in between
URIs: http://archive.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/archive.gpg

Types: deb-src
URIs: http://archive.example/debian
Suites: bookworm
Components: main

Types: deb
Enabled: no
URIs: http://elsewhere.example/
Suites: stable
Components: main
"""
ONE_LINE = """\
# deb http://off.example/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/one.gpg] http://archive.example/debian bookworm main non-free # why
deb-src http://archive.example/debian bookworm main
deb http://security.example/debian-security bookworm-security main
"""
BOOKWORM = {"ID": "debian", "VERSION_CODENAME": "bookworm"}


@pytest.fixture
def apt(tmp_path: Path) -> Path:
    """An empty /etc/apt."""
    (tmp_path / "sources.list.d").mkdir()
    return tmp_path


def test_deb822(apt: Path) -> None:
    """Binary entries that are enabled, one for each suite."""
    (apt / "sources.list.d" / "debian.sources").write_text(DEB822)
    signed = (("Signed-By", "/usr/share/keyrings/archive.gpg"),)
    uri = "http://archive.example/debian"
    assert machine_sources(apt) == [
        Source(uri, "bookworm", ("main", "contrib"), signed),
        Source(uri, "bookworm-updates", ("main", "contrib"), signed),
    ]


def test_one_line(apt: Path) -> None:
    """Options in brackets and comments."""
    (apt / "sources.list").write_text(ONE_LINE)
    assert machine_sources(apt) == [
        Source(
            "http://archive.example/debian",
            "bookworm",
            ("main", "non-free"),
            (("Signed-By", "/usr/share/keyrings/one.gpg"),),
        ),
        Source("http://security.example/debian-security", "bookworm-security", ("main",)),
    ]


def test_what_is_written_is_read_again(apt: Path) -> None:
    """Our entries survive their own format."""
    (apt / "sources.list").write_text(ONE_LINE)
    sources = machine_sources(apt)
    (apt / "sources.list").unlink()
    (apt / "sources.list.d" / "ours.sources").write_text("\n".join(source.stanza() for source in sources))
    assert machine_sources(apt) == sources


def test_another_suite_of_the_same_archive(apt: Path) -> None:
    """The archive and the keyring of this release's own entry, no other."""
    (apt / "sources.list").write_text(ONE_LINE)
    assert derive("sid", folder=apt, release=BOOKWORM) == Source(
        "http://archive.example/debian", "sid", ("main",), (("Signed-By", "/usr/share/keyrings/one.gpg"),)
    )


def test_a_machine_without_sources_is_told(apt: Path) -> None:
    """One sentence instead of a wrong guess."""
    with pytest.raises(NotHere, match=r"can't be derived\.$"):
        derive("sid", folder=apt, release=BOOKWORM)
