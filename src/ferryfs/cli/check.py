"""``ferryfsd --check``: everything that a start needs, tried one by one, without serving.

Each line says what was tried and how it went, and where it did not go well, what to type. What changes the process
(namespaces, the filter) is tried in a child.
"""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from ferryfs.cli import options_sources
from ferryfs.cli.options import Options, SandboxMode, SeccompAction
from ferryfs.cli.options_text import print_text
from ferryfs.errors import FerryError, OptionError
from ferryfs.passthrough.config import HandleMode
from ferryfs.sandbox import _linux, capabilities, limits, namespace, root, seccomp
from ferryfs.sandbox.idmappings import Plan

OK: Final = "ok"
NOTE: Final = "note"
FAILED: Final = "failed"

MOUNTS_SHOWN: Final = 20


class Line(NamedTuple):
    """One row of the table."""

    verdict: str
    subject: str
    text: str


USAGE: Final = """usage: ferryfs check DIR [OPTIONS]

Says whether DIR and this machine are fit for sharing. OPTIONS are those of ferryfsd (see ferryfsd --help)."""


def main(argv: Sequence[str]) -> int:
    """``ferryfs check``: the same table by another door."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else OptionError.exit_code
    parsed = options_sources.load([f"--shared-dir={argv[0]}", "--check", *argv[1:]], os.environ)
    parsed.check()
    return print_table(parsed.options)


def print_table(options: Options) -> int:
    """Print the table; 0 when a start with these options would work, else 1."""
    lines = list(check_lines(options))
    width = max(len(line.subject) for line in lines)
    status = print_text("\n".join(f"{line.verdict:<6}  {line.subject:<{width}}  {line.text}" for line in lines))
    return int(status or any(line.verdict == FAILED for line in lines))


def check_lines(options: Options) -> Iterator[Line]:
    """Try everything. ``options`` have passed ``options_rules``."""
    shared = options.shared_dir or "."
    yield _share(shared)
    yield _files(options)
    yield from _core(options)
    yield from _socket(options)
    yield from _sandbox(options, shared)
    yield _capabilities(options)
    yield _seccomp(options)
    yield from _handles(options, shared)
    yield _xattr(options, shared)
    if options.translate_uid or options.translate_gid:
        yield Line(
            OK, "id translation", f"{len(options.translate_uid)} user and {len(options.translate_gid)} group rules"
        )


def _share(shared: str) -> Line:
    kind = "directory" if root.check_shared(shared) else "file (a Linux guest mounts directories only)"
    access = os.access(shared, os.R_OK | os.X_OK if os.path.isdir(shared) else os.R_OK)
    return Line(OK if access else FAILED, "share", f"{shared} is a {kind}" + ("" if access else " that can't be read"))


def _files(options: Options) -> Line:
    def attempt() -> str:
        files = limits.set_file_limit(options.rlimit_nofile, options.pool_size())
        return f"{files.total} in all, {files.guest} for the guest"

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    verdict, text = _in_child(attempt)
    if verdict == OK and before[1] < limits.DEFAULT_FILES:
        verdict, text = NOTE, text + "; more with a higher hard limit (ulimit -Hn, LimitNOFILE=)"
    return Line(verdict, "open files", text)


def _core(options: Options) -> Iterator[Line]:
    size = options.rlimit_core
    if size is None:
        return

    def attempt() -> str:
        limits.set_core_limit(size)
        return "as --rlimit-core says"

    verdict, text = _in_child(attempt)
    yield Line(verdict, "core dumps", text)


def _socket(options: Options) -> Iterator[Line]:
    path = options.socket_path
    if path is None and options.fd is None:
        return
    if path is not None and _is_socket(path):
        # Asking whether somebody listens there would be a connection, and most daemons end after their first.
        yield Line(NOTE, "socket", f"{path} is there already: it is replaced, unless somebody listens on it")
        return

    def attempt() -> str:
        # Only the daemon needs it.
        from ferryfs.cli import service

        return service.try_socket(options)

    verdict, text = _in_child(attempt)
    yield Line(verdict, "socket", text)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


def _sandbox(options: Options, shared: str) -> Iterator[Line]:
    def namespaces() -> str:
        # The outer process of the sandbox ends with the status of the inner one, which comes back here.
        namespace.enter(shared, Plan(options.uid_map, options.gid_map))
        return "own mount, pid and network namespaces can be made"

    def change_root() -> str:
        root.change_root(shared)
        return "the share can be made the root"

    def stay() -> str:
        root.stay(shared)
        return "the daemon is not confined" if options.sandbox is SandboxMode.NONE else "works"

    attempts: dict[SandboxMode, Callable[[], str]] = {
        SandboxMode.NAMESPACE: namespaces,
        SandboxMode.CHROOT: change_root,
        SandboxMode.NONE: stay,
    }
    for mode, attempt in attempts.items():
        verdict, text = _in_child(attempt)
        chosen = mode is options.sandbox
        if verdict == FAILED and not chosen:
            verdict = NOTE
        yield Line(verdict, f"sandbox {mode.value}" + (" (chosen)" if chosen else ""), text)


def _capabilities(options: Options) -> Line:
    _, permitted, _ = _linux.capget()
    wanted = capabilities.wanted(options.inode_file_handles, options.modcaps)
    lacking = capabilities.missing(permitted, wanted)
    if os.geteuid() == 0:
        try:
            capabilities.refuse_in_vain(lacking, options.modcaps)
        except OptionError as error:
            return Line(FAILED, "capabilities", str(error))
    if not lacking:
        return Line(OK, "capabilities", "all of " + ", ".join(sorted(wanted)))
    if os.geteuid() != 0 and options.sandbox is SandboxMode.NAMESPACE:
        return Line(NOTE, "capabilities", "those of the user namespace, over the ids that it maps")
    return Line(NOTE, "capabilities", "without " + ", ".join(lacking) + ": requests that need them will fail")


def _seccomp(options: Options) -> Line:
    if options.seccomp is SeccompAction.NONE:
        return Line(NOTE, "system calls", "not restricted")

    def attempt() -> str:
        rules = seccomp.Rules(options.seccomp.value)
        rules.load()
        return f"restricted by {rules.count} rules"

    verdict, text = _in_child(attempt)
    return Line(verdict, "system calls", text)


def _handles(options: Options, shared: str) -> Iterator[Line]:
    """Each mount under the share, because each is a file system of its own kind."""
    if options.inode_file_handles is HandleMode.NEVER:
        yield Line(NOTE, "file handles", "not used")
        return
    if "dac_read_search" not in capabilities.wanted(options.inode_file_handles, options.modcaps):
        yield Line(NOTE, "file handles", "not used: --modcaps=-dac_read_search takes away what opens them")
        return
    places = mounts_below(shared)
    for place in places[:MOUNTS_SHOWN]:
        subject = f"file handles {place}"
        bad = FAILED if options.inode_file_handles is HandleMode.MANDATORY else NOTE
        try:
            fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            yield Line(NOTE, subject, f"can't be tried: {error.strerror}")
            continue
        try:
            making, opening = _linux.try_file_handle(fd)
        finally:
            os.close(fd)
        if making:
            yield Line(
                bad, subject, f"this file system has none ({os.strerror(making)}), inodes are held as open files"
            )
        elif opening:
            why = f"can't be opened ({os.strerror(opening)})"
            yield Line(bad, subject, f"{why}: needs root outside of user namespaces with CAP_DAC_READ_SEARCH")
        else:
            yield Line(OK, subject, "can be made and opened")
    if len(places) > MOUNTS_SHOWN:
        yield Line(NOTE, "file handles", f"{len(places) - MOUNTS_SHOWN} more mounts were not tried")


def mounts_below(shared: str, mountinfo: str = "/proc/self/mountinfo") -> list[str]:
    """The share and the mount points below it."""
    top = os.path.realpath(shared)
    found = [shared]
    with open(mountinfo, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            place = line.split(" ")[4]
            for escaped, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
                place = place.replace(escaped, char)
            if place.startswith(top.rstrip("/") + "/") and place not in found:
                found.append(place)
    return found


def _xattr(options: Options, shared: str) -> Line:
    reason = root.without_xattrs(shared)
    if reason:
        text = f"this file system has no extended attributes for users ({reason})"
        return Line(FAILED if options.uses_xattr() else NOTE, "xattr", text)
    if not options.uses_xattr():
        return Line(OK, "xattr", "the file system has them, the guest gets them with --xattr")
    return Line(OK, "xattr", "the file system has them")


def _in_child(attempt: Callable[[], str]) -> tuple[str, str]:
    """Run it in a child, so that whatever it changes is gone afterwards."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        verdict, text = FAILED, "a bug in ferryfsd"
        try:
            verdict, text = OK, attempt()
        except (FerryError, OSError) as error:
            verdict, text = FAILED, str(error)
        finally:
            # Also after an exception that nobody expected: the parent's lines must not come twice.
            os.write(writer, f"{verdict}\n{text}".encode("utf-8", "replace"))
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as stream:
        answer = stream.read().decode("utf-8", "replace")
    os.waitpid(child, 0)
    verdict, _, text = answer.partition("\n")
    return (verdict, text) if verdict else (FAILED, "the attempt was killed")
