"""``ferryfs inspect FILE``: a migration state for people, as a tree with its open files, or as JSON for programs."""

from __future__ import annotations

import argparse
import json
import mmap
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, Final

from ferryfs.errors import FerryError, OptionError, StateError
from ferryfs.migration import describe, qemu_file, state, trailer
from ferryfs.migration.oddities import oddities
from ferryfs.migration.state import ByHandle, FullPath, Handle, Inode, Invalid, Path, RootNode
from ferryfs.migration.stream import Stream, parse
from ferryfs.migration.trailer_identities import InodeIdentities
from ferryfs.migration.trailer_records import Content, HalfRead, Mounts, Names, Negotiated, Record, Unlinked

# Lines of the tree without --all: what one still scrolls through.
TREE_LINES: Final = 500
_ACCESS: Final = {os.O_RDONLY: "read", os.O_WRONLY: "write", os.O_RDWR: "read+write"}
_FLAG_NAMES: Final = (
    "O_APPEND",
    "O_DIRECT",
    "O_DIRECTORY",
    "O_SYNC",
    "O_NOATIME",
    "O_NOFOLLOW",
    "O_NONBLOCK",
    "O_TRUNC",
    "O_CREAT",
)


@dataclass(frozen=True, slots=True)
class _Part:
    """One state of the file."""

    device: str
    offset: int
    stream: Stream
    # Why it can't be loaded; empty when it can.
    fault: str


def arguments_parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = argparse.ArgumentParser(
        prog="ferryfs inspect",
        description="Shows the migration state in FILE: one as a daemon wrote it, or those in a QEMU migration file.",
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        help="the state, or a file of QEMU's 'migrate file:' or 'virsh save'; - is standard input",
    )
    parser.add_argument("--json", action="store_true", help="everything, for programs: a list of states")
    parser.add_argument("--all", action="store_true", help=f"the whole tree, also beyond {TREE_LINES} lines")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; the exit status: 0, 1 for a file that is no loadable state, 2 for a wrong command line."""
    options = arguments_parser().parse_args(argv)
    try:
        parts = _read(options.file)
        if options.json:
            json.dump([_json(part) for part in parts], sys.stdout, indent=1)
            print()
        else:
            for part in parts:
                for line in _lines(part, None if options.all else TREE_LINES):
                    print(line)
        faults = [part.fault for part in parts if part.fault]
        if faults:
            raise StateError(faults[0])
    except BrokenPipeError:
        # Whoever read us has enough; nothing may be flushed into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except FerryError as error:
        print(f"ferryfs inspect: {_safe(options.file)}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _read(name: str) -> list[_Part]:
    if name == "-":
        return _parts(sys.stdin.buffer.read())
    try:
        with FilePath(name).open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return _parts(file.read())  # empty, or a pipe
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                return _parts(mapped)
    except OSError as error:
        raise OptionError(f"it can't be read: {error.strerror}") from None


def _parts(data: bytes | mmap.mmap) -> list[_Part]:
    if not len(data):
        raise StateError("it is empty")
    if qemu_file.is_migration_file(data):
        return [_part(found.data, found.device, found.offset) for found in qemu_file.states(data)]
    return [_part(data[:], "", 0)]


def _part(data: bytes, device: str, offset: int) -> _Part:
    stream = parse(data)
    fault = ""
    try:
        state.validate(stream.state)
        if stream.trailer is not None:
            trailer.validate(stream.trailer, stream.state)
    except StateError as error:
        fault = str(error)
    return _Part(device, offset, stream, fault)


def _json(part: _Part) -> dict[str, Any]:
    return {
        "device": part.device,
        "offset": part.offset,
        "loadable": not part.fault,
        "fault": part.fault,
        "suspicious": oddities(part.stream),
        **describe.stream(part.stream),
    }


def _lines(part: _Part, most: int | None) -> Iterator[str]:
    stream = part.stream
    v1 = state.body(stream.state)
    version = 2 if isinstance(stream.state, state.StateV2) else 1
    if part.device:
        yield f"Device {part.device}, at byte {part.offset} of the file"
    yield f"version   {version}, {stream.state_bytes} bytes"
    yield f"mode      {_mode(v1)}"
    on = [
        name
        for name in ("writeback", "announce_submounts", "posix_acl", "sup_group_extension")
        if getattr(v1.options, name)
    ]
    yield f"options   {', '.join(on) or 'none'}"
    yield f"inodes    {len(v1.inodes)}, the next is number {v1.next_inode}"
    yield f"open      {len(v1.handles)}, the next is number {v1.next_handle}"
    for mount in state.mount_paths(stream.state):
        yield f"mount     {mount.mount_id} at {_safe(mount.path)}"
    yield from _trailer_lines(stream)
    odd = oddities(stream)
    for text in odd:
        yield f"note      {_safe(text)}"
    yield ""
    tree = _tree(stream)
    for count, line in enumerate(tree):
        if most is not None and count == most:
            yield f"... and more: {len(v1.inodes)} inodes in all (--all shows them)"
            return
        yield line


def _mode(v1: state.StateV1) -> str:
    kinds = {type(inode.location) for inode in v1.inodes} - {RootNode, Invalid}
    if not v1.inodes:
        return "the share is not mounted"
    if kinds == {ByHandle}:
        return "file-handles"
    paths = "find-paths" if ByHandle not in kinds else "find-paths and file-handles"
    return paths + (", handles for comparison" if any(inode.file_handle for inode in v1.inodes) else "")


def _trailer_lines(stream: Stream) -> Iterator[str]:
    if stream.trailer is None:
        yield "trailer   none (virtiofsd writes none)"
        return
    yield f"trailer   version {stream.trailer.version}, {stream.total_bytes - stream.state_bytes} bytes, checksum right"
    carried: dict[int, int] = {}
    for record in stream.trailer.records:
        match record:
            case Content(inode, _, data):
                carried[inode] = carried.get(inode, 0) + len(data)
            case _:
                yield f"          {_record_line(record)}"
    for inode, count in carried.items():
        yield f"          {count} bytes of content for the unlinked file #{inode}"


def _record_line(record: Record) -> str:
    match record:
        case Mounts(mounts):
            listed = (
                f"{_safe(mount.path)} (type {mount.identity.kind:#x}, UUID {mount.identity.uuid.hex() or 'none'})"
                for mount in mounts
            )
            return "mounts: " + ", ".join(listed)
        case Negotiated():
            return (
                f"FUSE {record.major}.{record.minor}, flags {record.flags:#x}, max_write {record.max_write}, "
                f"options {_safe(', '.join(record.options)) or 'none'}"
            )
        case InodeIdentities():
            return f"identities of {len(record.ids)} inodes"
        case Unlinked():
            return f"unlinked file #{record.inode}: mode {record.mode:o}, {record.size} bytes" + (
                "" if record.has_content else ", attributes only"
            )
        case HalfRead():
            entries = sum(bool(entry.name) for entry in record.entries)
            return f"half-read directory, handle {record.handle}: {entries} entries"
        case Names(names):
            return "names: " + ", ".join(f"#{name.inode} {_safe(name.name)}" for name in names[:10])
        case _:
            return f"{type(record).__name__}: {len(getattr(record, 'inodes', ()))}"


def _tree(stream: Stream) -> Iterator[str]:
    """The inodes: first those in the root's tree, then the others. No recursion: a chain may be as long as it likes."""
    v1 = state.body(stream.state)
    opened: dict[int, list[Handle]] = {}
    for handle in v1.handles:
        opened.setdefault(handle.inode, []).append(handle)
    places = _places(stream)
    children: dict[int, list[tuple[str, Inode]]] = {}
    loose: list[Inode] = []
    for inode in v1.inodes:
        if isinstance(inode.location, RootNode):
            continue
        if inode.id in places:
            parent, name = places[inode.id]
            children.setdefault(parent, []).append((name, inode))
        else:
            loose.append(inode)
    shown: set[int] = set()
    for root in v1.inodes:
        if isinstance(root.location, RootNode) and root.id not in shown:
            yield from _subtree("/", root, children, opened, shown)
    for inode in loose:
        if inode.id not in shown:
            yield from _subtree(_loose_name(inode), inode, children, opened, shown)
    for inode in v1.inodes:
        if inode.id not in shown:
            yield f"{_line(_loose_name(inode), inode, opened)}   (leads to no root)"


def _subtree(
    name: str,
    top: Inode,
    children: dict[int, list[tuple[str, Inode]]],
    opened: dict[int, list[Handle]],
    shown: set[int],
) -> Iterator[str]:
    waiting = [("", "", name, top)]
    while waiting:
        lead, branch, name, inode = waiting.pop()
        shown.add(inode.id)
        yield lead + branch + _line(name, inode, opened)
        below = sorted(
            (pair for pair in children.get(inode.id, ()) if pair[1].id not in shown), key=lambda pair: pair[0]
        )
        deeper = lead + {"": "", "├── ": "│   ", "└── ": "    "}[branch]
        for index, (child_name, child) in enumerate(reversed(below)):
            waiting.append((deeper, "└── " if index == 0 else "├── ", child_name, child))


def _places(stream: Stream) -> dict[int, tuple[int, str]]:
    """Parent and name of each inode, from the state or, where that has none, from the trailer."""
    places: dict[int, tuple[int, str]] = {}
    for record in stream.trailer.records if stream.trailer else ():
        if isinstance(record, InodeIdentities) and record.parents:
            for row in describe.identities(record):
                if row["parent"] and row["name"]:
                    places[row["id"]] = (row["parent"], _safe(row["name"]))
        elif isinstance(record, Names):
            places.update({name.inode: (name.parent, _safe(name.name)) for name in record.names if name.parent})
    for inode in state.body(stream.state).inodes:
        if isinstance(inode.location, Path):
            places[inode.id] = (inode.location.parent, _safe(inode.location.filename))
        elif isinstance(inode.location, FullPath):
            places.pop(inode.id, None)
    return places


def _loose_name(inode: Inode) -> str:
    match inode.location:
        case FullPath(filename):
            return f"/{_safe(filename)}"
        case ByHandle(handle):
            return f"(handle of type {handle.handle_type:#x} on mount {handle.mount_id}: {handle.handle.hex()})"
        case Invalid():
            return "(not located)"
        case Path(parent, filename):
            return f"(in {parent}) {_safe(filename)}"
        case _:
            return "/"


def _line(name: str, inode: Inode, opened: dict[int, list[Handle]]) -> str:
    text = f"{name}  #{inode.id}, {inode.refcount} references"
    handles = [f"{handle.id} ({_flags(handle.flags)})" for handle in opened.get(inode.id, ())]
    return f"{text}, open: {', '.join(handles)}" if handles else text


def _flags(flags: int) -> str:
    names = [name.removeprefix("O_").lower() for name in _FLAG_NAMES if flags & getattr(os, name) == getattr(os, name)]
    return ", ".join([_ACCESS.get(flags & os.O_ACCMODE, "?"), *names])


def _safe(text: str | bytes) -> str:
    """A name as it may be shown on a terminal: nothing in it can move the cursor or end the line."""
    shown = text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in shown)
