"""Packages of another suite than this machine's, without changing the machine: a private apt state in our cache.

Standard library only: it runs before anything is installed. The source entry of a suite is derived from the entries
that the machine already has (same archive, same keyring), so no host is named here.

Some facts about apt. ``-o Dir::Etc::sourcelist=FILE -o Dir::Etc::sourceparts=-`` makes it see our entries only;
``Dir::State::lists`` and ``Dir::Cache`` moved elsewhere make ``update`` and ``download`` work without root; an empty
``Dir::State::status`` makes it forget what is installed. Root's downloads normally go through the user ``_apt``, who
can't write into a home folder: hence ``APT::Sandbox::User``.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

APT_FOLDER = Path("/etc/apt")
EMPTY_PARTS = "-"


class NotHere(Exception):
    """Something that this machine can't give; the text is one sentence for the user."""


@dataclass(frozen=True)
class Source:
    """One source entry: the archive, a suite of it, the components and whatever else the machine says about it."""

    uri: str
    suite: str
    components: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()

    def stanza(self) -> str:
        """The entry in the deb822 format of sources.list(5)."""
        lines = ["Types: deb", f"URIs: {self.uri}", f"Suites: {self.suite}", f"Components: {' '.join(self.components)}"]
        return "\n".join([*lines, *(f"{key}: {value}" for key, value in self.options)]) + "\n"


def cache_folder() -> Path:
    """Where everything downloaded is kept: ``$FERRYFS_CACHE``, else ``~/.cache/ferryfs``."""
    named = os.environ.get("FERRYFS_CACHE")
    return Path(named).absolute() if named else Path.home() / ".cache" / "ferryfs"


def os_release() -> dict[str, str]:
    """ID, VERSION_CODENAME and the rest of this machine's os-release."""
    return platform.freedesktop_os_release()


def _deb822_sources(text: str) -> Iterable[Source]:
    for stanza in text.split("\n\n"):
        fields: dict[str, str] = {}
        key = ""
        for line in stanza.splitlines():
            if line.startswith("#") or not line.strip():
                continue
            if line[0] in " \t":
                fields[key] += "\n" + line
            else:
                key, _, value = line.partition(":")
                key = key.strip().lower()
                fields[key] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        kept = tuple((name, fields[name.lower()]) for name in ("Signed-By", "Trusted") if name.lower() in fields)
        for uri in fields["uris"].split():
            for suite in fields["suites"].split():
                yield Source(uri, suite, tuple(fields.get("components", "").split()), kept)


def _one_line_sources(text: str) -> Iterable[Source]:
    names = {"signed-by": "Signed-By", "trusted": "Trusted"}
    for line in text.splitlines():
        words = line.split("#", 1)[0].replace("[", " [ ").replace("]", " ] ").split()
        if not words or words[0] != "deb":
            continue
        options: list[tuple[str, str]] = []
        if len(words) > 1 and words[1] == "[":
            end = words.index("]")
            for word in words[2:end]:
                key, _, value = word.partition("=")
                if key in names:
                    options.append((names[key], value))
            words = [words[0], *words[end + 1 :]]
        if len(words) >= 4:
            yield Source(words[1], words[2], tuple(words[3:]), tuple(options))


def machine_sources(folder: Path = APT_FOLDER) -> list[Source]:
    """The enabled binary source entries of this machine, of both formats."""
    found: list[Source] = []
    parts = folder / "sources.list.d"
    for path in [folder / "sources.list", *sorted(parts.glob("*.list"))]:
        if path.is_file():
            found.extend(_one_line_sources(path.read_text()))
    for path in sorted(parts.glob("*.sources")):
        found.extend(_deb822_sources(path.read_text()))
    return found


def derive(suite: str, *, folder: Path = APT_FOLDER, release: Mapping[str, str] | None = None) -> Source:
    """The entry for another suite of the archive that this machine's own release (its os-release) comes from."""
    known = os_release() if release is None else release
    name = known.get("VERSION_CODENAME", "")
    own = [source for source in machine_sources(folder) if source.suite == name]
    if not own:
        raise NotHere(f"no entry for {name or 'this release'} in {folder}/sources.list.d, so {suite} can't be derived.")
    wanted = ("main", "universe") if known.get("ID") == "ubuntu" else ("main",)
    return replace(own[0], suite=suite, components=wanted)


def run(command: Sequence[str], *, cwd: Path | None = None) -> None:
    """Run a command whose output matters only when it fails."""
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        sys.stderr.write(done.stdout)
        raise NotHere(f"`{' '.join(command[:2])} …` failed with status {done.returncode}; its output is above.")


class Suite:
    """Package downloads from one set of source entries, with a private apt state."""

    def __init__(self, name: str, sources: Sequence[Source]) -> None:
        self.name = name
        self._folder = cache_folder() / "apt" / name
        self._sources = sources
        self._updated = False

    def _options(self) -> list[str]:
        settings = {
            "Dir::Etc::sourcelist": str(self._folder / "ours.sources"),
            "Dir::Etc::sourceparts": EMPTY_PARTS,
            "Dir::State": str(self._folder / "state"),
            "Dir::State::lists": str(self._folder / "state" / "lists"),
            "Dir::State::status": str(self._folder / "status"),
            "Dir::Cache": str(self._folder / "cache"),
            "Dir::Cache::archives": str(self._folder / "cache" / "archives"),
            "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        return [word for key, value in settings.items() if value for word in ("-o", f"{key}={value}")]

    def update(self) -> None:
        """Fetch the package lists, once."""
        if self._updated:
            return
        for part in ("state/lists/partial", "cache/archives/partial"):
            (self._folder / part).mkdir(parents=True, exist_ok=True)
        (self._folder / "status").touch()
        (self._folder / "ours.sources").write_text("\n".join(source.stanza() for source in self._sources))
        run(["apt-get", *self._options(), "-q", "update", "--error-on=any"])
        self._updated = True

    def version(self, package: str) -> str | None:
        """The newest version of a package, None when there is none."""
        return self._field(package, "Version")

    def depends(self, package: str) -> str:
        """The Pre-Depends and Depends fields, raw."""
        return ", ".join(filter(None, (self._field(package, name) for name in ("Pre-Depends", "Depends"))))

    def _field(self, package: str, name: str) -> str | None:
        self.update()
        command = ["apt-cache", *self._options(), "show", "--no-all-versions", package]
        shown = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
        for line in shown.stdout.splitlines():
            if line.startswith(f"{name}: "):
                return line.split(": ", 1)[1].strip()
        return None

    def unpack(self, packages: Sequence[str], into: Path) -> None:
        """Download packages and unpack them into one folder, which appears only when it is complete."""
        self.update()
        into.parent.mkdir(parents=True, exist_ok=True)
        work = into.with_name(f"{into.name}.part{os.getpid()}")
        shutil.rmtree(work, ignore_errors=True)
        (work / "debs").mkdir(parents=True)
        try:
            run(["apt-get", *self._options(), "-q", "download", *packages], cwd=work / "debs")
            for deb in sorted((work / "debs").glob("*.deb")):
                run(["dpkg-deb", "--extract", str(deb), str(work)])
            shutil.rmtree(work / "debs")
            shutil.rmtree(into, ignore_errors=True)
            work.rename(into)
        finally:
            shutil.rmtree(work, ignore_errors=True)
