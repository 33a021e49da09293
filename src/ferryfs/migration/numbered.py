"""The inodes of a state by their numbers, whichever way the state was read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ferryfs.migration.bulk import Records
from ferryfs.migration.state import Inode, State, body


class _Numbered(Mapping[int, Inode]):
    """A view of ``bulk.Records``: nothing is made that is not asked for."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def __contains__(self, number: object) -> bool:
        return number in self._records

    def __getitem__(self, number: int) -> Inode:
        inode = self._records.get(number)
        if inode is None:
            raise KeyError(number)
        return inode

    def __iter__(self) -> Iterator[int]:
        return (inode.id for inode in self._records)

    def __len__(self) -> int:
        return len(self._records)


def numbered(state: State) -> Mapping[int, Inode]:
    """nodeid -> inode."""
    inodes = body(state).inodes
    return _Numbered(inodes) if isinstance(inodes, Records) else {inode.id: inode for inode in inodes}
