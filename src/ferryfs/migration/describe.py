"""A stream as plain JSON values: for ``ferryfs inspect --json``, and for the golden files of the tests.

Names that are not UTF-8 have their odd bytes as surrogates (Python's ``surrogateescape``); all other byte strings are
in hex.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, Final

from ferryfs.migration import state, trailer
from ferryfs.migration.stream import Stream
from ferryfs.migration.trailer_identities import NO_HANDLE, Folders, InodeIdentities
from ferryfs.migration.trailer_records import Content, Record

# Fields whose bytes are a name or a path.
_NAMES: Final = frozenset({"name", "path", "target"})


def stream(found: Stream) -> dict[str, Any]:
    """All of it."""
    v1 = state.body(found.state)
    return {
        "version": 2 if isinstance(found.state, state.StateV2) else 1,
        "bytes": found.total_bytes,
        "state_bytes": found.state_bytes,
        "options": _plain(v1.options),
        "next_inode": v1.next_inode,
        "next_handle": v1.next_handle,
        "inodes": [_inode(inode) for inode in v1.inodes],
        "handles": [_plain(handle) for handle in v1.handles],
        "mount_paths": {str(mount.mount_id): mount.path for mount in state.mount_paths(found.state)},
        "trailer": None if found.trailer is None else _trailer(found.trailer),
    }


def _inode(inode: state.Inode) -> dict[str, Any]:
    location = _plain(inode.location)
    assert isinstance(location, dict)
    return {
        "id": inode.id,
        "refcount": inode.refcount,
        "location": {"kind": type(inode.location).__name__, **location},
        "file_handle": _plain(inode.file_handle),
    }


def _trailer(found: trailer.Trailer) -> dict[str, Any]:
    return {
        "version": found.version,
        "records": [_record(record) for record in found.records],
        "skipped": list(found.skipped),
    }


def _record(record: Record) -> dict[str, Any]:
    kind = {"kind": type(record).__name__}
    match record:
        case InodeIdentities():
            return {**kind, "inodes": [_identity(row) for row in identities(record)]}
        case Folders(ahead_ns, ids, changed_ns):
            return {**kind, "ahead_ns": ahead_ns, "changed_ns": dict(zip(map(str, ids), changed_ns, strict=True))}
        case Content(inode, offset, data):
            return {**kind, "inode": inode, "offset": offset, "bytes": len(data)}
        case _:
            plain = _plain(record)
            assert isinstance(plain, dict)
            return {**kind, **plain}


def identities(record: InodeIdentities) -> list[dict[str, Any]]:
    """The columns as rows: slow, for people."""
    rows = []
    handle_at = name_at = 0
    for index, number in enumerate(record.ids):
        shape_index = record.shape_of[index]
        row: dict[str, Any] = {
            "id": number,
            "kind": record.kinds[index],
            "size": record.sizes[index],
            "mtime_ns": record.mtimes_ns[index],
            "handle": None,
        }
        if shape_index != NO_HANDLE:
            shape = record.shapes[shape_index]
            row["handle"] = {
                "mount": shape.mount,
                "handle_type": shape.handle_type,
                "handle": bytes(record.handles[handle_at : handle_at + shape.length]),
                "openable": shape.openable,
            }
            handle_at += shape.length
        if record.parents:
            length = record.name_lengths[index]
            row["parent"] = record.parents[index]
            row["name"] = bytes(record.names[name_at : name_at + length])
            name_at += length
        rows.append(row)
    return rows


def _identity(row: dict[str, Any]) -> Any:
    return {key: _plain(value, key) for key, value in row.items()}


def _plain(value: Any, name: str = "") -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name), field.name) for field in fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item, key) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item, name) for item in value]
    if isinstance(value, bytes | memoryview):
        raw = bytes(value)
        return raw.decode("utf-8", "surrogateescape") if name in _NAMES else raw.hex()
    return value
